-- A sign of life of a run, from wherever it goes on. It decides nothing by itself:
-- elsewhere() in claim.lua and the run's worker look at what it leaves.
-- KEYS: inc, claim, done chunk. ARGV: inc ('' = any), bit, run, ms it counts for
-- where the claim does not say, how far it is (JSON, '' = not said).
-- Reply: {1 if it counts, else 0; ms it counts for; claim as field, value, ...}.
local ck, dk, bit, run = KEYS[2], KEYS[3], ARGV[2], ARGV[3]
if redis.call('GETBIT', dk, bit) == 1 then return {0, 0, {'s', 'X'}} end
local e, claim = entry(dk, bit), nil
if e then
  claim = {'s', 'R', 'e', '0', 'a', '1', 'r', e.r, 'o', e.owner, 'c', e.c, 'k', e.k}
else
  claim = redis.call('HGETALL', ck)
end
local v = {}
for i = 1, #claim, 2 do v[claim[i]] = claim[i + 1] end
if v.r ~= run or v.f or not (v.s == 'R' or (v.s == 'W' and v.w)) then return {0, 0, claim} end
local now = redis.call('TIME')
redis.call('HSET', ck .. ':b', 'r', run, 't', now[1] .. string.format('%03d', math.floor(tonumber(now[2]) / 1000)))
redis.call('HINCRBY', ck .. ':b', 'n', 1)
if ARGV[5] ~= '' then redis.call('HSET', ck .. ':b', 'p', ARGV[5]) end
local counts = v.w or ARGV[4]
redis.call('PEXPIRE', ck .. ':b', counts)
return {1, tonumber(counts), claim}
