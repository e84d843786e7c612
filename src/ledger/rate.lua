-- RateLimit::admit of rate.rs. KEYS[1] holds when the bucket will have leaked out, in milliseconds.
-- ARGV: milliseconds between two mails, and the period. Answers 0, or how long to wait.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = tonumber(redis.call('GET', KEYS[1]) or now)
-- No bucket is fuller than full, unless Redis's clock has jumped back.
local next = math.min(math.max(known, now), now + ARGV[2]) + ARGV[1]
local wait = next - ARGV[2] - now
if wait > 0 then return wait end
redis.call('SET', KEYS[1], next, 'PX', math.max(next - now, 1))
return 0
