-- Marks that a delivery waits. KEYS: the mark, then the lists of marks in which it is found. ARGV: the mark,
-- how long it is kept in milliseconds, the most marks in a list. A list has the keys of marks in lines, the
-- newest first.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for index = 2, #KEYS do
  local kept = { KEYS[1] }
  for known in string.gmatch(redis.call('GET', KEYS[index]) or '', '[^\n]+') do
    if #kept == tonumber(ARGV[3]) then break end
    if known ~= KEYS[1] then table.insert(kept, known) end
  end
  redis.call('SET', KEYS[index], table.concat(kept, '\n'), 'PX', ARGV[2])
end
