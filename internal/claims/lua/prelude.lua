-- Begins every script. KEYS[1] is always `inc`, ARGV[1] the incarnation that
-- the caller opened ('' = any): with another or none, nothing may be concluded
-- from what this Redis holds or lacks.
--
-- A claim that is more than an entry (chunk.lua) is a hash c:<task id>:
--   s  state: R running, W waiting, D dead, C cancelled, N none but with run and
--      crashes kept (handed back), X done, once dead (see done.lua)
--   e, a  epoch and attempt     r  last run, <epoch>.<incarnation>.<n>
--   o  owner ('' = given up)    c  coordinate, <topic>/<partition>/<offset>
--   n  crashes (absent = 0); m  those of them alone; z  '1' = R was granted alone
--                               k  of R, W: token of the call that wrote or re-asserted
--                                  it, <incarnation>.<call>
--   d  due, Unix ms             l  '1' = waits in the worker, at c
--   h  history                  x  '1' = cancel asked
--   y  reason of D              i  R was granted while in doubt: '1' its owner went silent, '2' work elsewhere did
--   p  what stood before R, for hand-back; ph the history of that
--   w  of W: the work goes on elsewhere; ms of silence after which that is doubtful
--   f  of W, and of R until it is acted on: what was reported from there, opaque
-- and beside it c:<task id>:b, a hash that ends when nothing was heard for long:
--   r  the run it is of     n  how often it was heard     t  when last, Unix ms
--   p  how far it says it is, JSON
-- R and W never expire. D, C, N and done bits are kept for the horizon.
do
  local inc = redis.call('GET', KEYS[1])
  if not inc or (ARGV[1] ~= '' and inc ~= ARGV[1]) then
    return redis.error_reply('PERDURE_LOST')
  end
end
