-- When events that are expected came last, as all instances know it. KEYS: the times. ARGV: how long nobody may
-- have looked, and how long the times are kept, both in milliseconds; then each event and when it came last, or 0.
-- Answers for each event since when somebody has looked without a pause, and when it came last, or 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_read, known = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '{}')
if not is_read or type(known) ~= 'table' then known = {} end
local answer = {}
for index = 3, #ARGV, 2 do
  local event, came = ARGV[index], tonumber(ARGV[index + 1])
  local entry = known[event]
  if not entry or now - entry.looked > tonumber(ARGV[1]) then
    entry = { since = now, last = entry and entry.last or 0 }
  end
  entry.looked = now
  entry.last = math.max(entry.last, came)
  known[event] = entry
  table.insert(answer, string.format('%.0f', entry.since))
  table.insert(answer, string.format('%.0f', entry.last))
end
redis.call('SET', KEYS[1], cjson.encode(known), 'PX', ARGV[2])
return answer
