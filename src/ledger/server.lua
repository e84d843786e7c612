-- Which server this is, and which history of writes it has: after a failover or a restart another one,
-- which may have lost the last of them. Nothing where the user may not ask.
local this_server
local function server()
  if not this_server then
    local about, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
    local run = type(about) == 'string' and string.match(about, 'run_id:(%x+)')
    local history =
      type(replication) == 'string' and string.match(replication, 'master_replid:(%x+)')
    this_server = run and history and string.sub(run, 1, 16) .. ' ' .. string.sub(history, 1, 16) or ''
  end
  return this_server
end

