-- The delivery state machine of step.rs as one atomic script: the same states, the same answers
-- (tests/it/ledger.rs holds one against the other). It takes many inputs in turn, for half of what
-- one costs is the call.
--
-- KEYS are their entries, one for each input, and may repeat. ARGV has the key of the server whose claims
-- are open, then the name of each input and what it says; the reply has the answer to each, its parts in lines. The keys of instances and the epoch are
-- made here, which is why Redis Cluster is not supported.
--
-- An entry is a string, its fields in lines, for that costs less than a hash; the event, which may
-- hold anything, comes last:
--   s state · x next · a attempt of a retry · h handed · n attempt · o instance · t token ·
--   f fence · c claims · d derived · r record (JSON, in one line), or the relay that has the mail,
--   from the latch to the outcome · e event
-- It is kept for ever, or for a window where its delivery is over.
local s, x, a, h, n, o, t, f, c, d, r, e
-- Written after the answer, by one command.
local is_changed, window_from_now

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

local function lines(...) return table.concat({ ... }, '\n') end

local function granted() return lines('granted', f, n) end

-- The windows of a whole and of a derived id, in milliseconds.
local function over_from_now(window, window_derived)
  window_from_now = d == '1' and window_derived or window
end

local function is_held_by(instance, token, fence)
  return o == instance and t == token and f == fence
end

local function sent(event, attempt, record, derived, window, window_derived)
  if not s then create(event, attempt, derived) end
  if s ~= 'sent' then
    n, r = attempt, record
    to('sent')
    over_from_now(window, window_derived)
  end
  return granted()
end

local function handed(attempt, next, next_attempt, window, window_derived)
  if not s then return 'absent' end
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

-- Whether this server may lack the latest writes, and owners still write again what they know; also for
-- an instance that has not done so yet, or does not know yet that this is another server.
local open
local function is_recovering(met)
  if server() == '' then return false end
  if open == nil then open = redis.call('GET', ARGV[1]) end
  return open ~= server() or met ~= server()
end

local function latch(met, instance, token, fence, relay)
  if is_recovering(met) then return 'recovering' end
  if not s then return 'absent' end
  if not is_held_by(instance, token, fence) then return 'lost' end
  if s == 'claimed' then
    r = relay
    to('sending')
  end
  return s == 'sending' and granted() or 'lost'
end

local function reclaim(met, instance, token, event, attempt, fence, state, relay, derived)
  if not s then
    create(event, attempt, derived)
    c = '0'
  elseif is_held_by(instance, token, fence) then
    if s == 'sending' or s == 'unknown' then return granted() end
    if s ~= 'claimed' then return 'lost' end
  -- While the server recovers, every entry is of the history in which the claim was granted, so the
  -- higher fence is the later one.
  elseif not is_recovering(met) or s == 'sent' or tonumber(f) >= tonumber(fence) then
    return 'lost'
  end
  e, n, o, t, f, r = event, attempt, instance, token, fence, relay
  if c == '0' then c = '1' end
  x, a, h = '', '0', '0'
  to(state)
  return granted()
end

local function decide(instance, token, fence, next, attempt, record)
  if not s then return 'absent' end
  if not is_held_by(instance, token, fence) then return 'lost' end
  if s == 'claimed' or s == 'sending' or s == 'unknown' then
    x, a, h, r = next, attempt, '0', record
    to('decided')
  end
  return s == 'decided' and h == '0' and x == next and a == attempt and granted() or 'lost'
end

local function suppress(instance, token, fence, record, window, window_derived)
  if not s then return 'absent' end
  if not is_held_by(instance, token, fence) then return 'lost' end
  if s == 'claimed' then
    r = record
    to('suppressed')
    over_from_now(window, window_derived)
  end
  return s == 'suppressed' and granted() or 'lost'
end

-- Gone is who was absent at two looks far enough apart: a pause of Redis kills nobody.
local function is_owner_gone(instance, grace)
  if o == instance or redis.call('EXISTS', 'usher:instance:' .. o) == 1 then
    return false
  end
  local absent = 'usher:absent:' .. o
  local since = redis.call('GET', absent)
  -- Redis's clock may have jumped back.
  if not since or tonumber(since) > now() then
    redis.call('SET', absent, now(), 'EX', 86400)
    return false
  end
  return now() - since >= tonumber(grace)
end

-- The epoch holds the time up to which the audit has to be asked; it is absent after a loss. The clock
-- holds the time of the last renewal by any instance. If that is long ago, either no instance ran or
-- Redis's clock has jumped, and outcomes have expired before their time: the next renewal tells which.
local intact
local function is_intact()
  if intact == nil then
    local epoch = redis.call('GET', 'usher:ledger:epoch')
    local seen = string.match(redis.call('GET', 'usher:ledger:clock') or '', '^%d+')
    intact = epoch and now() > tonumber(epoch) and not (seen and now() - seen > 60000)
      and server() ~= ''
  end
  return intact
end

local function claim(met, instance, token, event, attempt, fresh, silent, tried, derived, alone,
    suspect_claims, max_claims, grace)
  if is_recovering(met) then return 'recovering' end
  local function taken(state)
    e, o, t, f, c = event, instance, token, tostring(f + 1), tostring(c + 1)
    to(state)
    if state == 'unknown' then return lines('unresolved', f, n, r) end
    if tonumber(c) > tonumber(max_claims) then return lines('crash_loop', f, c) end
    return granted()
  end

  -- An entry of before the loss may lack its outcome.
  local function may_be_stale() return silent ~= '1' and not is_intact() end

  local function unresolved()
    if silent ~= '1' then return 'ask_audit' end
    return taken('unknown')
  end

  local function next_attempt(to_come)
    if may_be_stale() then return 'ask_audit' end
    -- Another event's copy comes as attempt 1, whatever was tried before.
    n = tostring(e == event and to_come or n + 1)
    c, x, a, h, r = '0', '', '0', '0', ''
    return taken('claimed')
  end

  local function over()
    return lines(e == event and 'done' or 'duplicate', r)
  end

  if not s then
    if silent == '1' or (fresh == '1' and is_intact()) then
      create(event, attempt, derived)
      return taken('claimed')
    end
    return 'ask_audit'
  end

  local same_event, tried_before = e == event, tonumber(n)
  attempt = tonumber(attempt)
  if (s == 'claimed' or s == 'sending') and o == instance and t == token then
    -- It may have lost the delivery since, and the ledger has lost that.
    if may_be_stale() then return 'ask_audit' end
    to('claimed')
    return granted()
  end
  if s == 'claimed' or s == 'sending' or s == 'unknown' then
    local owner = o
    if not is_owner_gone(instance, grace) then return 'busy' end
    -- Decided since, and the ledger has lost that.
    if tonumber(tried) >= tried_before then return next_attempt(math.max(attempt, tried_before)) end
    if s == 'claimed' then
      -- It may have been latched before the loss, and nobody is left who knows.
      if not is_intact() and redis.call('GET', 'usher:met:' .. owner) ~= server() then
        return unresolved()
      end
      if tonumber(c) >= tonumber(suspect_claims) and alone ~= '1' then return 'suspect' end
      if may_be_stale() then return 'ask_audit' end
      return taken('claimed')
    end
    if s == 'sending' then return unresolved() end
    return taken('unknown')
  end
  if s == 'sent' or s == 'suppressed' then return over() end
  if s == 'failed' then
    if attempt > tried_before or not same_event then return next_attempt(attempt) end
    return over()
  end
  -- decided
  if not same_event then return over() end
  if x == 'retry' and attempt >= tonumber(a) then return next_attempt(attempt) end
  if x == 'park' and h == '1' and attempt > tried_before then return next_attempt(attempt) end
  if h == '0' then return lines('hand_off', x, a, n, r) end
  return over()
end

-- What each input does, and how many arguments it has.
local does = {
  claim = claim, latch = latch, reclaim = reclaim, decide = decide, handed = handed, suppress = suppress,
  sent = sent,
}
local arity = { claim = 13, latch = 5, reclaim = 9, decide = 6, handed = 5, suppress = 6, sent = 6 }

-- What is no entry spoils the answer to its own input only.
local function answer(key, input, first)
  local known = redis.pcall('GET', key)
  s = nil
  if known then
    if type(known) == 'string' then
      s, x, a, h, n, o, t, f, c, d, r, e = string.match(known,
        '^(%l+)\n(%l*)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(%d+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(.*)$')
    end
    if not s then return lines('error', key .. ' is no entry') end
  end
  is_changed, window_from_now = false, nil
  local reply = does[input](unpack(ARGV, first, first + arity[input] - 1))
  if is_changed then
    local entry = lines(s, x, a, h, n, o, t, f, c, d, r, e)
    if window_from_now then
      redis.call('SET', key, entry, 'PX', window_from_now)
    else
      redis.call('SET', key, entry)
    end
  end
  return reply
end

local replies, at = {}, 2
for index, key in ipairs(KEYS) do
  local input = ARGV[at]
  replies[index] = answer(key, input, at + 1)
  at = at + 1 + arity[input]
end
return replies
