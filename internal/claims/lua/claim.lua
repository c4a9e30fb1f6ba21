-- Who may run these records now? PROTOCOL section 2, all rows with a record.
-- KEYS: inc, hold, grace, own beat, void of this call; then claim, done chunk for each record.
-- ARGV: inc, owner, beat prefix, incarnation, call token, max crashes, horizon ms;
--       then bit, epoch, attempt, coordinate, run, and what else holds for each
--       record: 'o' if once, 'a' if nothing else would run beside it, 's' if it
--       came by a share group (docs/decisions/0120), 'e' if it was produced to see
--       after work that goes on elsewhere (docs/decisions/0180), 'x' if its task is
--       to die without a run, whatever is heard from elsewhere.
-- Reply for each record: a run as a string (granted from none), or
--       {verdict, run, attempt, in doubt, claim as field, value, ...}.
local RUN, ACK, PARK, WAIT, RETRY, LETTER, RESOLVE, ALONE = 1, 2, 3, 4, 5, 6, 7, 8
-- Crashes from which on a task is a suspect, and runs only where nothing else does.
local SUSPECT = 2

-- Redis was lost a moment ago: live workers are re-asserting what they hold.
if redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('PERDURE_PAUSED') end
-- My own beat is missing: then either I was away or Redis was, and nobody
-- else's silence means anything either.
local own = redis.call('GET', KEYS[4])
if not own then return redis.error_reply('PERDURE_PAUSED') end
-- I was removed while I was away: what I held may run elsewhere.
if own == 'gone' then return redis.error_reply('PERDURE_GONE') end
-- The network kept this call back until its owner had given it up (handback.lua):
-- nobody would read a grant, and while the owner beats nobody could end it.
if redis.call('EXISTS', KEYS[5]) == 1 then return redis.error_reply('PERDURE_VOID') end

local me, beat_prefix, incn, token = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local max_crashes, horizon = tonumber(ARGV[6]), ARGV[7]
local inc_prefix = ARGV[4] .. '.'
local beats, grace = {}, nil

local function alive(owner)
  local p = string.match(owner, '^[^/]*/[^/]*') or owner
  if beats[p] == nil then beats[p] = redis.call('GET', beat_prefix .. p) end
  if beats[p] == 'gone' then return false end -- removed, or succeeded: no grace
  if beats[p] then return true end
  if grace == nil then grace = redis.call('EXISTS', KEYS[3]) == 1 end
  return grace
end

-- A run above all earlier ones: those the record and the claim know of, and
-- every run of an earlier epoch or incarnation.
local function next_run(e, r1, r2)
  local be, bi, bn = e, incn, 0
  for _, r in ipairs({r1, r2}) do
    local re, ri, rn = string.match(r, '^(%d+)%.(%d+)%.(%d+)$')
    if re then
      re, ri, rn = tonumber(re), tonumber(ri), tonumber(rn)
      if re > be or (re == be and (ri > bi or (ri == bi and rn > bn))) then be, bi, bn = re, ri, rn end
    end
  end
  bn = bn + 1
  if bn == 16777216 then bi, bn = bi + 1, 0 end
  return be .. '.' .. bi .. '.' .. bn
end

local function answer(ck, verdict, run, attempt, doubt)
  return {verdict, run or '', attempt or 0, doubt or 0, redis.call('HGETALL', ck)}
end

-- Any claim → R(e, a, me, c); the old one is kept aside for a hand-back.
-- own: the crashes that happened while it ran alone.
local function grant(ck, q, was, a, crashes, own, before, doubt)
  -- Nothing is changed: the worker asks again when nothing else runs there.
  if crashes >= SUSPECT and not q.alone then return answer(ck, ALONE) end
  local run = next_run(q.e, q.run, was.r or '')
  redis.call('HDEL', ck, 'd', 'l', 'y', 'p', 'ph', 'n', 'i', 'm', 'z', 'w')
  redis.call('HSET', ck, 's', 'R', 'e', q.e, 'a', a, 'r', run, 'o', me, 'c', q.c, 'k', token)
  if crashes > 0 then redis.call('HSET', ck, 'n', crashes) end
  if own > 0 then redis.call('HSET', ck, 'm', own) end
  if crashes >= SUSPECT then redis.call('HSET', ck, 'z', '1') end
  if before then redis.call('HSET', ck, 'p', before) end
  if doubt then redis.call('HSET', ck, 'i', doubt) end
  redis.call('PERSIST', ck)
  return answer(ck, RUN, run, a, doubt)
end

local function dead(ck, q, was, crashes, reason)
  redis.call('HDEL', ck, 'd', 'l', 'p', 'ph', 'k', 'x', 'i', 'm', 'z', 'w', 'f')
  redis.call('HSET', ck, 's', 'D', 'e', q.e, 'a', was.a, 'o', me, 'c', q.c, 'n', crashes, 'y', reason)
  redis.call('PEXPIRE', ck, horizon)
  return answer(ck, LETTER)
end

-- The record that sees after work elsewhere, and what was known of that work is
-- lost: Redis was, or a failover lost its W. In doubt, and no crash of a worker.
local function unknown(ck, q, was, crashes, own, before)
  if q.once then return dead(ck, q, {a = q.a - 1}, crashes, 'unknown') end
  return grant(ck, q, was, q.a, crashes, own, before, 2)
end

-- W as it stands, for a hand-back.
local function stands(was)
  return 'W|' .. was.a .. '|' .. was.c .. '|' .. (was.d or '') .. '|' .. (was.l or '') .. '|' .. (was.w or '')
end

-- R of the same epoch.
local function running(ck, q, was)
  local same = q.c == was.c
  -- R | a < A, c ≠ C: stale
  if q.a < was.a and not same then return answer(ck, ACK) end
  local present = was.o ~= '' and alive(was.o)
  -- A claim that its owner did not re-assert under this incarnation is not
  -- being run by it any more: the outcome was lost with the old Redis.
  local beating = present and string.sub(was.k, 1, #inc_prefix) == inc_prefix
  if beating then
    -- the same call once more (its first answer was lost on the way)
    if was.o == me and was.k == token and same then return answer(ck, RUN, was.r, was.a, was.doubt) end
    -- R, owner beats | same a, c ≠ C: duplicate; a shared one may be all that is left
    if q.a == was.a and not same and not q.shared then return answer(ck, ACK) end
    -- R, owner beats | same c, or a > A (a failover lost the W): park
    return answer(ck, PARK)
  end
  -- R, owner silent | a > A: a failover lost the W
  if q.a > was.a then
    local before = 'W|' .. q.a .. '|' .. q.c .. '||1'
    if q.ext then return unknown(ck, q, was, was.n, was.m, before) end
    return grant(ck, q, was, q.a, was.n, was.m, before, 1)
  end
  -- R, owner silent, to act on a report from elsewhere: nothing was running
  if was.f then return grant(ck, q, was, was.a, was.n, was.m, 'W|' .. was.a .. '|' .. was.c .. '||1') end
  -- R, owner silent | same e; a = A, or a < A with c = C: in doubt
  local crashes, own = was.n, was.m
  if not present then
    crashes = crashes + 1
    -- Only a worker that ran nothing else says whose fault it was.
    if was.z then own = own + 1 end
  end
  if q.once then return dead(ck, q, was, crashes, 'unknown') end
  if own >= max_crashes then return dead(ck, q, was, crashes, 'poison') end
  return grant(ck, q, was, was.a, crashes, own, 'W|' .. was.a .. '|' .. was.c .. '||1', 1)
end

-- W, and the work goes on elsewhere | a ≥ A: the record that sees after it.
local function elsewhere(ck, q, was)
  if q.ends then return grant(ck, q, was, q.a, was.n, was.m, stands(was)) end
  local left = redis.call('PTTL', ck .. ':b')
  if left > 0 then -- heard of lately: see after it again when that is over
    local g = answer(ck, was.l and WAIT or RETRY)
    g[5][#g[5] + 1], g[5][#g[5] + 2] = 'left', tostring(left)
    return g
  end
  -- silent: in doubt, and no crash of a worker
  if q.once then return dead(ck, q, {a = was.a - 1}, was.n, 'unknown') end
  return grant(ck, q, was, q.a, was.n, was.m, stands(was), 2)
end

-- W of the same epoch.
local function waiting(ck, q, was)
  if was.x then -- cancelled while it ran; its owner waited instead of deciding
    redis.call('HDEL', ck, 'd', 'l', 'h', 'x', 'w', 'f')
    redis.call('HSET', ck, 's', 'C')
    redis.call('PEXPIRE', ck, horizon)
    return answer(ck, ACK)
  end
  if was.w and not was.f and q.a >= was.a then return elsewhere(ck, q, was) end
  -- W(A) | a ≥ A
  if q.a >= was.a then
    if q.ext and not was.f then
      -- a failover lost the W that it was produced for
      if q.a > was.a then return unknown(ck, q, was, was.n, was.m, stands(was)) end
      -- left over: a retry waits, and not for this record; as a retry it comes no sooner
      if q.c ~= was.c and not q.ends then return answer(ck, RETRY) end
    end
    return grant(ck, q, was, q.a, was.n, was.m, stands(was))
  end
  -- shared: whoever was to produce the retry may have been killed since
  if q.shared then return answer(ck, RETRY) end
  -- W(A) | a < A, c ≠ C: duplicate
  if q.c ~= was.c then return answer(ck, ACK) end
  -- W(A) | a < A, c = C: wait again in the worker, or produce the retry again
  if was.l then return answer(ck, WAIT) end
  return answer(ck, RETRY)
end

local function decide(ck, dk, bit, q)
  -- done | record: absorbing
  if redis.call('GETBIT', dk, bit) == 1 then
    if q.e > 0 then return {RESOLVE, '', 0, 0, {}} end
    return {ACK, '', 0, 0, {}}
  end
  to_hash(ck, dk, bit, horizon)
  local s = redis.call('HGET', ck, 's')
  -- none | record
  if not s then
    if q.ext then
      keyed(dk, bit, horizon)
      return unknown(ck, q, {}, 0, 0)
    end
    local run = next_run(q.e, q.run, '')
    keyed(dk, bit, horizon)
    redis.call('HSET', ck, 's', 'R', 'e', q.e, 'a', q.a, 'r', run, 'o', me, 'c', q.c, 'k', token)
    return run
  end
  local v = redis.call('HMGET', ck, 'e', 'a', 'r', 'o', 'c', 'n', 'k', 'd', 'l', 'x', 'y', 'h', 'i', 'm', 'z', 'w', 'f')
  local was = {
    e = tonumber(v[1] or 0), a = tonumber(v[2] or 0), r = v[3], o = v[4] or '', c = v[5] or '',
    n = tonumber(v[6] or 0), k = v[7] or '', d = v[8], l = v[9], x = v[10], y = v[11], h = v[12],
    doubt = tonumber(v[13] or 0), m = tonumber(v[14] or 0), z = v[15], w = v[16], f = v[17],
  }
  -- cancelled: its record is acked
  if s == 'C' then
    redis.call('PEXPIRE', ck, horizon)
    return answer(ck, ACK)
  end
  -- none, with run and crashes kept
  if s == 'N' then
    if q.ext then return unknown(ck, q, was, was.n, was.m) end
    return grant(ck, q, was, q.a, was.n, was.m)
  end
  -- any but done | e < E: stale epoch
  if q.e < was.e then return answer(ck, ACK) end
  if s == 'D' then
    -- dead(E) | e = E: letter again
    if q.e == was.e then
      redis.call('PEXPIRE', ck, horizon)
      -- A timer that was left over: the record at C sees to the letter.
      if q.ext and q.c ~= was.c and not q.shared then return answer(ck, ACK) end
      return answer(ck, LETTER)
    end
    -- dead(E) | e > E: a replay; crashes count anew
    if q.ext and q.once then
      redis.call('HDEL', ck, 'h')
      return unknown(ck, q, was, 0, 0)
    end
    local g = grant(ck, q, was, q.a, 0, 0, 'D|' .. was.e .. '|' .. was.a .. '|' .. was.c .. '|' .. (was.y or '') .. '|' .. was.n, q.ext and 2 or nil)
    if was.h then
      redis.call('HDEL', ck, 'h')
      redis.call('HSET', ck, 'ph', was.h)
      g[5] = redis.call('HGETALL', ck)
    end
    return g
  end
  -- R or W | e > E: until E is decided
  if q.e > was.e then
    if string.sub(was.k, 1, #inc_prefix) == inc_prefix then return answer(ck, PARK) end
    -- It was decided: there is no replay without a letter. The decision was lost
    -- with the old Redis, and nothing may be left that would make it again.
    redis.call('HDEL', ck, 'h', 'f')
    local before = 'W|' .. q.a .. '|' .. q.c .. '||1'
    if q.ext then return unknown(ck, q, was, 0, 0, before) end
    return grant(ck, q, was, q.a, 0, 0, before, s == 'R' and 1 or nil)
  end
  if s == 'R' then return running(ck, q, was) end
  if s == 'W' then return waiting(ck, q, was) end
  return answer(ck, ACK) -- X whose bit is gone: it was done
end

local out = {}
local n = (#KEYS - 5) / 2
for i = 1, n do
  local j = 7 + (i - 1) * 6
  out[i] = decide(KEYS[4 + 2 * i], KEYS[5 + 2 * i], ARGV[j + 1], {
    e = tonumber(ARGV[j + 2]), a = tonumber(ARGV[j + 3]), c = ARGV[j + 4],
    run = ARGV[j + 5], once = string.find(ARGV[j + 6], 'o', 1, true) ~= nil,
    alone = string.find(ARGV[j + 6], 'a', 1, true) ~= nil,
    shared = string.find(ARGV[j + 6], 's', 1, true) ~= nil,
    ext = string.find(ARGV[j + 6], 'e', 1, true) ~= nil,
    ends = string.find(ARGV[j + 6], 'x', 1, true) ~= nil,
  })
end
return out
