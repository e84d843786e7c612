-- The recovery of the ledger on a server that is not known: each instance writes again what it has latched
-- and marks itself here, and claims wait meanwhile.
-- KEYS: the server whose claims are open, the recovery, the epoch. ARGV: the server that the instance met
-- before; the instance that marks itself, or ''; 1 if the grace may end; how long it lasts and the dedup
-- window, in milliseconds; how many instances to wait for, their ids; the names under which the instance
-- claims, the newest first.
-- Answers which server this is, its stage, since when it recovers in milliseconds, and how many instances
-- have marked themselves and how many have not.
local this = server()
if this == '' then return { this, 'open', 0, 0, 0 } end
local before, instance = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local names = 7 + ARGV[6]

local function has_met(first, last)
  for index = first, last do
    redis.call('SET', 'usher:met:' .. ARGV[index], this, 'PX', ARGV[5])
  end
end

local open = redis.call('GET', KEYS[1])
-- Whoever comes from another server was not waited for, or was here before: then others have gone on
-- there meanwhile.
if open == this and instance == '' and before ~= '' and before ~= this then
  redis.call('DEL', KEYS[1])
  open = nil
end
if open == this then
  -- Too late for the others: they may have judged what the old names had claimed.
  if instance ~= '' then has_met(names, names) end
  return { this, 'open', 0, 0, 0 }
end

local of, since, is_loss, marks =
  string.match(redis.call('GET', KEYS[2]) or '', '^(%S+ %S+) (%d+) ([01])(.*)$')
if of ~= this or tonumber(since) > now then
  since, is_loss, marks = now, (open or before ~= '') and '1' or '0', ''
end
local function is_marked(id) return string.find(marks, ' ' .. id, 1, true) end
if instance ~= '' and not is_marked(instance) then
  marks = marks .. ' ' .. instance
end
if instance ~= '' then has_met(names, #ARGV) end
redis.call('SET', KEYS[2], string.format('%s %.0f %s%s', this, since, is_loss, marks))
local marked, missing = select(2, string.gsub(marks, ' ', '')), 0
for index = 7, names - 1 do
  if not is_marked(ARGV[index]) then missing = missing + 1 end
end
local waited = now - since
if ARGV[3] == '1' and (missing == 0 or waited >= tonumber(ARGV[4])) then
  redis.call('SET', KEYS[1], this)
  redis.call('DEL', KEYS[2])
  -- What was lost, only the audit knows.
  if is_loss == '1' and redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('SET', KEYS[3], string.format('%.0f', now + ARGV[5]))
  end
  return { this, 'opened', waited, marked, missing }
end
return { this, 'recovering', waited, marked, missing }
