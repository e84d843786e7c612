-- The delivery state machine of step.rs as one atomic script: the same states, the same answers
-- (tests/it/ledger.rs holds one against the other). An entry is a hash:
--   s state · x next · a attempt of a retry · h handed · e event · n attempt · o instance ·
--   t token · f fence · c claims · d derived · r record
-- KEYS[1] is the entry; the keys of instances and the epoch are made here, which is why Redis
-- Cluster is not supported. ARGV[1] is the input's name.
local key, input = KEYS[1], ARGV[1]

local values = redis.call('HMGET', key, 's', 'x', 'a', 'h', 'e', 'n', 'o', 't', 'f', 'c', 'd', 'r')
local entry = nil
if values[1] then
  entry = { s = values[1], x = values[2], a = values[3], h = values[4], e = values[5], n = values[6],
            o = values[7], t = values[8], f = values[9], c = values[10], d = values[11], r = values[12] }
end

-- Written at the end, by one command.
local is_new, changes, window_from_now = false, {}, nil

local function set(...)
  local given = { ... }
  for i = 1, #given, 2 do
    entry[given[i]] = tostring(given[i + 1])
    changes[#changes + 1] = given[i]
    changes[#changes + 1] = entry[given[i]]
  end
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function create(event, attempt, derived)
  is_new = true
  entry = { s = 'claimed', x = '', a = '0', h = '0', e = event, n = attempt,
            o = '', t = '0', f = '0', c = '0', d = derived, r = '' }
end

local function granted() return { 'granted', entry.f, entry.n } end

-- The windows of a whole and of a derived id, in milliseconds.
local function over_from_now(window, window_derived)
  window_from_now = entry.d == '1' and window_derived or window
end

local function answer()
  if input == 'sent' then
    local event, attempt, record, derived, window, window_derived = unpack(ARGV, 2)
    if not entry then create(event, attempt, derived) end
    if entry.s ~= 'sent' then
      set('s', 'sent', 'n', attempt, 'r', record)
      over_from_now(window, window_derived)
    end
    return granted()
  end

  if input == 'handed' then
    local attempt, next, next_attempt, window, window_derived = unpack(ARGV, 2)
    if not entry then return { 'absent' } end
    local same = entry.x == next and entry.a == next_attempt and entry.n == attempt
    if entry.s == 'decided' and entry.h == '0' and same then
      if entry.x == 'dead' or entry.x == 'poison' then
        set('s', 'failed')
        over_from_now(window, window_derived)
      else
        set('h', 1)
      end
    end
    return granted()
  end

  if input ~= 'claim' then
    local instance, token, fence = unpack(ARGV, 2, 4)
    if not entry then return { 'absent' } end
    if entry.o ~= instance or entry.t ~= token or entry.f ~= fence then
      return { 'lost' }
    end
    if input == 'latch' then
      if entry.s == 'claimed' then set('s', 'sending') end
      return entry.s == 'sending' and granted() or { 'lost' }
    end
    if input == 'decide' then
      local next, attempt, record = unpack(ARGV, 5, 7)
      if entry.s == 'claimed' or entry.s == 'sending' or entry.s == 'unknown' then
        set('s', 'decided', 'x', next, 'a', attempt, 'h', 0, 'r', record)
      end
      local same = entry.s == 'decided' and entry.h == '0' and entry.x == next and entry.a == attempt
      return same and granted() or { 'lost' }
    end
    if input == 'suppress' then
      local record, window, window_derived = unpack(ARGV, 5)
      if entry.s == 'claimed' then
        set('s', 'suppressed', 'r', record)
        over_from_now(window, window_derived)
      end
      return entry.s == 'suppressed' and granted() or { 'lost' }
    end
    return redis.error_reply('unknown input ' .. input)
  end

  local instance, token, event, attempt, fresh, silent, derived, alone, suspect_claims,
    max_claims, grace = unpack(ARGV, 2)

  local function taken(state)
    set('s', state, 'e', event, 'o', instance, 't', token, 'f', entry.f + 1, 'c', entry.c + 1)
    if state == 'unknown' then return { 'unresolved', entry.f, entry.n } end
    if tonumber(entry.c) > tonumber(max_claims) then return { 'crash_loop', entry.f, entry.c } end
    return granted()
  end

  local function next_attempt()
    redis.call('PERSIST', key)
    -- Another event's copy comes as attempt 1, whatever was tried before.
    set('n', entry.e == event and attempt or entry.n + 1, 'e', event, 'c', 0, 'x', '', 'a', 0, 'h', 0, 'r', '')
    return taken('claimed')
  end

  local function over()
    return { entry.e == event and 'done' or 'duplicate', entry.r }
  end

  -- Gone is who was absent at two looks far enough apart: a pause of Redis kills nobody.
  local function owner_gone()
    if entry.o == instance or redis.call('EXISTS', 'usher:instance:' .. entry.o) == 1 then
      return false
    end
    local absent = 'usher:absent:' .. entry.o
    local since = redis.call('GET', absent)
    if not since then
      redis.call('SET', absent, now(), 'EX', 86400)
      return false
    end
    return now() - since >= tonumber(grace)
  end

  if not entry then
    -- The epoch holds the time up to which the audit has to be asked; it is absent after a loss.
    local epoch = redis.call('GET', 'usher:epoch')
    local intact = epoch and now() > tonumber(epoch)
    if silent == '1' or (fresh == '1' and intact) then
      create(event, attempt, derived)
      return taken('claimed')
    end
    return { 'ask_audit' }
  end

  local same_event = entry.e == event
  attempt = tonumber(attempt)
  if (entry.s == 'claimed' or entry.s == 'sending') and entry.o == instance and entry.t == token then
    set('s', 'claimed')
    return granted()
  end
  if entry.s == 'claimed' or entry.s == 'sending' or entry.s == 'unknown' then
    if not owner_gone() then return { 'busy' } end
    if entry.s == 'claimed' then
      if tonumber(entry.c) >= tonumber(suspect_claims) and alone ~= '1' then return { 'suspect' } end
      return taken('claimed')
    end
    if entry.s == 'sending' and silent ~= '1' then return { 'ask_audit' } end
    return taken('unknown')
  end
  if entry.s == 'sent' or entry.s == 'suppressed' then return over() end
  if entry.s == 'failed' then
    if attempt > tonumber(entry.n) or not same_event then return next_attempt() end
    return over()
  end
  -- decided
  if not same_event then return over() end
  if entry.x == 'retry' and attempt >= tonumber(entry.a) then return next_attempt() end
  if entry.x == 'park' and entry.h == '1' and attempt > tonumber(entry.n) then return next_attempt() end
  if entry.h == '0' then return { 'hand_off', entry.x, entry.a, entry.n, entry.r } end
  return over()
end

local reply = answer()
if is_new then
  redis.call('HSET', key, 's', entry.s, 'x', entry.x, 'a', entry.a, 'h', entry.h, 'e', entry.e, 'n', entry.n,
             'o', entry.o, 't', entry.t, 'f', entry.f, 'c', entry.c, 'd', entry.d, 'r', entry.r)
elseif #changes > 0 then
  redis.call('HSET', key, unpack(changes))
end
if window_from_now then redis.call('PEXPIRE', key, window_from_now) end
return reply
