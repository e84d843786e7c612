-- Renews the lease of an instance, and looks whether Redis's own clock has jumped: with a clock that
-- jumps ahead, outcomes expire before their window is over. The audit is asked then.
-- KEYS: the instance, its absence, the clock, the epoch. ARGV: time to live of the instance, the time
-- that instances agree on, the largest jump that is none, the dedup window, all in milliseconds.
-- Answers how far Redis's clock has jumped ahead since the renewal before.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], now, 'PX', ARGV[1])
-- The instance was seen, so an earlier observation of its absence is void.
redis.call('DEL', KEYS[2])
local seen, agreed = string.match(redis.call('GET', KEYS[3]) or '', '^(%d+) (%d+)$')
redis.call('SET', KEYS[3], string.format('%.0f %s', now, ARGV[2]))
local epoch = tonumber(redis.call('GET', KEYS[4]) or '')
local until_asked = now + ARGV[4]
local jump = 0
if seen then jump = (now - seen) - (ARGV[2] - agreed) end
-- Ahead: the audit is asked for what was forgotten. Back: it is not asked for longer than that.
if epoch and ((jump > tonumber(ARGV[3]) and epoch < until_asked)
  or (jump < -tonumber(ARGV[3]) and epoch > until_asked)) then
  redis.call('SET', KEYS[4], string.format('%.0f', until_asked))
end
return jump
