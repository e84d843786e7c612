-- Takes entries of a stream by count and by bytes; of one that is too large, its size and its hash.
--
-- KEYS: the stream. ARGV: the group, which is also its consumer; 'new', or for how many milliseconds what
-- is taken over was left; most entries; most bytes; the largest entry.
-- Returns id, fields, size and hash of each entry.
local key, group, left_for = KEYS[1], ARGV[1], ARGV[2]
local most, most_bytes, largest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local taken, bytes, cursor = {}, 0, '0-0'

local function take(id, fields)
  local size, hash = 0, ''
  for _, part in ipairs(fields) do size = size + #part end
  if size > largest then
    hash = redis.sha1hex(table.concat(fields))
    fields = {}
  else
    bytes = bytes + size
  end
  taken[#taken + 1] = { id, fields, size, hash }
end

while #taken < most and bytes < most_bytes do
  if left_for == 'new' then
    local given = redis.call('XREADGROUP', 'GROUP', group, group, 'COUNT', 1, 'STREAMS', key, '>')
    local entry = given and given[1] and given[1][2][1]
    if not entry then break end
    take(entry[1], entry[2] or {})
  else
    local claimed = redis.call('XAUTOCLAIM', key, group, group, left_for, cursor, 'COUNT', 1)
    cursor = claimed[1]
    for _, entry in ipairs(claimed[2]) do
      -- Without fields it was deleted meanwhile.
      if entry and entry[2] then take(entry[1], entry[2]) end
    end
    if cursor == '0-0' then break end
  end
end
return taken
