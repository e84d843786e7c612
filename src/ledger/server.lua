-- Which server this is, and which history of writes it has: after a failover or a restart another one,
-- which may have lost the last of them. Nothing where the user may not ask.
local function server()
  local about, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
  if type(about) ~= 'string' or type(replication) ~= 'string' then return '' end
  local run = string.match(about, 'run_id:(%x+)')
  local history = string.match(replication, 'master_replid:(%x+)')
  return run and history and run .. ' ' .. history or ''
end

