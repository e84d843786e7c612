-- Renews the lease of an instance, and looks whether Redis's own clock has jumped: with a clock that
-- jumps ahead, outcomes expire before their window is over.
-- Also whether this is another server than at the renewal before, or the same one started again: either
-- may have lost its last writes. The audit is asked in each of these cases.
-- KEYS: the instance, its absence, the clock, the epoch, the server. ARGV: time to live of the instance,
-- the time that instances agree on, the largest jump that is none, the dedup window, all in milliseconds;
-- the server that the instance met before.
-- Answers how far Redis's clock has jumped ahead since the renewal before, and which server this is.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], now, 'PX', ARGV[1])
-- The instance was seen, so an earlier observation of its absence is void.
redis.call('DEL', KEYS[2])
local seen, agreed = string.match(redis.call('GET', KEYS[3]) or '', '^(%d+) (%d+)$')
redis.call('SET', KEYS[3], string.format('%.0f %s', now, ARGV[2]))
local epoch = tonumber(redis.call('GET', KEYS[4]) or '')
local until_asked = now + ARGV[4]
local function ask_audit()
  if epoch then redis.call('SET', KEYS[4], string.format('%.0f', until_asked)) end
end
local this, known = server(), redis.call('GET', KEYS[5])
if this ~= '' and this ~= known then
  -- A backup may be older than this key: then the instance's own memory tells.
  local before = known or ARGV[5]
  if before ~= '' and before ~= this then ask_audit() end
  redis.call('SET', KEYS[5], this)
end
local jump = 0
if seen then jump = (now - seen) - (ARGV[2] - agreed) end
-- Ahead: the audit is asked for what was forgotten. Back: it is not asked for longer than that.
if epoch and ((jump > tonumber(ARGV[3]) and epoch < until_asked)
  or (jump < -tonumber(ARGV[3]) and epoch > until_asked)) then
  ask_audit()
end
return { jump, this }
