-- The delivery state machine of step.rs as one atomic script: the same states, the same answers
-- (tests/it/ledger.rs holds one against the other). An entry is a string, its fields in lines, for that
-- costs Redis less than a hash; the event, which may hold anything, comes last:
--   s state · x next · a attempt of a retry · h handed · n attempt · o instance · t token ·
--   f fence · c claims · d derived · r record (JSON, in one line) · e event
-- It is kept for ever, or for a window where its delivery is over.
-- KEYS[1] is the entry; the keys of instances and the epoch are made here, which is why Redis
-- Cluster is not supported. ARGV[1] is the input's name.
local key, input = KEYS[1], ARGV[1]

local known = redis.call('GET', key)
local s, x, a, h, n, o, t, f, c, d, r, e
if known then
  s, x, a, h, n, o, t, f, c, d, r, e = string.match(known,
    '^(%l+)\n(%l*)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(%d+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(.*)$')
  if not s then return redis.error_reply(key .. ' is no entry') end
end

-- Written at the end, by one command.
local is_changed, window_from_now = false, nil

local function to(state)
  s, is_changed = state, true
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function create(event, attempt, derived)
  s, x, a, h, n, o, t, f, c, d, r, e =
    'claimed', '', '0', '0', attempt, '', '0', '0', '0', derived, '', event
end

local function granted() return { 'granted', f, n } end

-- The windows of a whole and of a derived id, in milliseconds.
local function over_from_now(window, window_derived)
  window_from_now = d == '1' and window_derived or window
end

local function answer()
  if input == 'sent' then
    local event, attempt, record, derived, window, window_derived = unpack(ARGV, 2)
    if not s then create(event, attempt, derived) end
    if s ~= 'sent' then
      n, r = attempt, record
      to('sent')
      over_from_now(window, window_derived)
    end
    return granted()
  end

  if input == 'handed' then
    local attempt, next, next_attempt, window, window_derived = unpack(ARGV, 2)
    if not s then return { 'absent' } end
    if s == 'decided' and h == '0' and x == next and a == next_attempt and n == attempt then
      if x == 'dead' or x == 'poison' then
        to('failed')
        over_from_now(window, window_derived)
      else
        h = '1'
        to('decided')
      end
    end
    return granted()
  end

  if input ~= 'claim' then
    local instance, token, fence = unpack(ARGV, 2, 4)
    if not s then return { 'absent' } end
    if o ~= instance or t ~= token or f ~= fence then
      return { 'lost' }
    end
    if input == 'latch' then
      if s == 'claimed' then to('sending') end
      return s == 'sending' and granted() or { 'lost' }
    end
    if input == 'decide' then
      local next, attempt, record = unpack(ARGV, 5, 7)
      if s == 'claimed' or s == 'sending' or s == 'unknown' then
        x, a, h, r = next, attempt, '0', record
        to('decided')
      end
      return s == 'decided' and h == '0' and x == next and a == attempt and granted() or { 'lost' }
    end
    if input == 'suppress' then
      local record, window, window_derived = unpack(ARGV, 5)
      if s == 'claimed' then
        r = record
        to('suppressed')
        over_from_now(window, window_derived)
      end
      return s == 'suppressed' and granted() or { 'lost' }
    end
    return redis.error_reply('unknown input ' .. input)
  end

  local instance, token, event, attempt, fresh, silent, derived, alone, suspect_claims,
    max_claims, grace = unpack(ARGV, 2)

  local function taken(state)
    e, o, t, f, c = event, instance, token, tostring(f + 1), tostring(c + 1)
    to(state)
    if state == 'unknown' then return { 'unresolved', f, n } end
    if tonumber(c) > tonumber(max_claims) then return { 'crash_loop', f, c } end
    return granted()
  end

  local function next_attempt()
    -- Another event's copy comes as attempt 1, whatever was tried before.
    n = tostring(e == event and attempt or n + 1)
    c, x, a, h, r = '0', '', '0', '0', ''
    return taken('claimed')
  end

  local function over()
    return { e == event and 'done' or 'duplicate', r }
  end

  -- Gone is who was absent at two looks far enough apart: a pause of Redis kills nobody.
  local function owner_gone()
    if o == instance or redis.call('EXISTS', 'usher:instance:' .. o) == 1 then
      return false
    end
    local absent = 'usher:absent:' .. o
    local since = redis.call('GET', absent)
    if not since then
      redis.call('SET', absent, now(), 'EX', 86400)
      return false
    end
    return now() - since >= tonumber(grace)
  end

  if not s then
    -- The epoch holds the time up to which the audit has to be asked; it is absent after a loss.
    local epoch = redis.call('GET', 'usher:ledger:epoch')
    local intact = epoch and now() > tonumber(epoch)
    if silent == '1' or (fresh == '1' and intact) then
      create(event, attempt, derived)
      return taken('claimed')
    end
    return { 'ask_audit' }
  end

  local same_event, tried = e == event, tonumber(n)
  attempt = tonumber(attempt)
  if (s == 'claimed' or s == 'sending') and o == instance and t == token then
    to('claimed')
    return granted()
  end
  if s == 'claimed' or s == 'sending' or s == 'unknown' then
    if not owner_gone() then return { 'busy' } end
    if s == 'claimed' then
      if tonumber(c) >= tonumber(suspect_claims) and alone ~= '1' then return { 'suspect' } end
      return taken('claimed')
    end
    if s == 'sending' and silent ~= '1' then return { 'ask_audit' } end
    return taken('unknown')
  end
  if s == 'sent' or s == 'suppressed' then return over() end
  if s == 'failed' then
    if attempt > tried or not same_event then return next_attempt() end
    return over()
  end
  -- decided
  if not same_event then return over() end
  if x == 'retry' and attempt >= tonumber(a) then return next_attempt() end
  if x == 'park' and h == '1' and attempt > tried then return next_attempt() end
  if h == '0' then return { 'hand_off', x, a, n, r } end
  return over()
end

local reply = answer()
if is_changed then
  local entry = table.concat({ s, x, a, h, n, o, t, f, c, d, r, e }, '\n')
  if window_from_now then
    redis.call('SET', key, entry, 'PX', window_from_now)
  else
    redis.call('SET', key, entry)
  end
end
return reply
