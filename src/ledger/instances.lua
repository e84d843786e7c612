-- What the instances of a deployment say of themselves. One key that scripts read and write whole: an
-- instance needs no other commands than the ledger does.
-- KEYS: the instances. ARGV: the instance that says something, or ''; what it says, or '' where it ends;
-- how long that counts, in milliseconds.
-- Answers what all instances have said and still counts.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_read, known = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '{}')
if not is_read or type(known) ~= 'table' then known = {} end
local kept, said = {}, {}
local count = 0
for instance, entry in pairs(known) do
  if instance ~= ARGV[1] and entry['until'] > now then
    kept[instance] = entry
    table.insert(said, entry.said)
    count = count + 1
  end
end
if ARGV[1] ~= '' then
  if ARGV[2] ~= '' then
    kept[ARGV[1]] = { ['until'] = now + ARGV[3], said = ARGV[2] }
    table.insert(said, ARGV[2])
    count = count + 1
  end
  if count > 0 then
    redis.call('SET', KEYS[1], cjson.encode(kept), 'PX', ARGV[3])
  else
    redis.call('DEL', KEYS[1])
  end
end
return said
