-- How work that went on elsewhere ended.
-- KEYS: inc, claim, done chunk. ARGV: inc ('' = any), bit, horizon ms, run, its epoch,
-- what is to be known of its failure (opaque; '' = it succeeded).
-- Reply: {1 taken, 2 said before, 0 not its to say; 1 if resolved is to be produced;
-- claim as it stood}.
local ck, dk, bit, run, epoch, failure = KEYS[2], KEYS[3], ARGV[2], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local function split(r)
  local e, i, n = string.match(r or '', '^(%d+)%.(%d+)%.(%d+)$')
  return tonumber(e), tonumber(i), tonumber(n)
end
local success = failure == ''
if redis.call('GETBIT', dk, bit) == 1 then
  local again = epoch > 0 or redis.call('HGET', ck, 's') == 'X'
  return {success and 2 or 0, success and again and 1 or 0, {'s', 'X'}}
end
to_hash(ck, dk, bit, ARGV[3])
local claim = redis.call('HGETALL', ck)
local v = {}
for i = 1, #claim, 2 do v[claim[i]] = claim[i + 1] end

if not success then -- only for the run that is waited for
  if v.s ~= 'W' or not v.w or v.r ~= run then return {0, 0, claim} end
  if v.f then return {v.f == failure and 2 or 0, 0, claim} end
  redis.call('HSET', ck, 'f', failure)
  redis.call('DEL', ck .. ':b')
  return {1, 0, claim}
end

-- any | handler succeeded (any owner) → done; but a cancel that was answered has
-- won, and a run that nobody was granted proves nothing.
if v.s == 'C' then return {0, 0, claim} end
local e, i, n = split(run)
local E, I, N = split(v.r)
if E then
  if e > E or (e == E and (i > I or (i == I and n > N))) then return {0, 0, claim} end
elseif i >= tonumber(string.match(redis.call('GET', KEYS[1]), '^%d+')) then
  return {0, 0, claim} -- of this life of Redis, which would know of it
end
local resolve = (epoch > 0 or v.s == 'D' or v.s == 'X' or tonumber(v.e or 0) > 0) and 1 or 0
keyed(dk, bit, ARGV[3])
add_bit(dk, bit, ARGV[3])
redis.call('DEL', ck, ck .. ':b')
if v.s == 'D' or v.s == 'X' then -- as in done.lua
  redis.call('HSET', ck, 's', 'X')
  redis.call('PEXPIRE', ck, math.min(600000, tonumber(ARGV[3])))
end
return {1, resolve, claim}
