-- One tick at those who consume it, a key: "done" when it was run to its end, else the owner of a claim. Both end by
-- their TTL; no key means that nothing is known.
-- KEYS: tick. ARGV: what to do, the owner, how long the claim or the note lasts in milliseconds.
-- begin returns {"begun"}, {"done"}, {"busy", how many milliseconds the other claim still lasts} or {"endless"}: a key
-- without a TTL is nobody's claim, and ends from now on like one. done returns
-- whether the claim lasted until now: {"held"} or {"ended"}; release returns {"ok"}.
local key, verb, owner, milliseconds = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('GET', key)

if verb == 'begin' then
  if held == 'done' then return {'done'} end
  if held and held ~= owner then
    local left = redis.call('PTTL', key)
    if left >= 0 then return {'busy', left} end
    redis.call('PEXPIRE', key, milliseconds)
    return {'endless'}
  end
  redis.call('SET', key, owner, 'PX', milliseconds)
  return {'begun'}
elseif verb == 'done' then
  redis.call('SET', key, 'done', 'PX', milliseconds)
  return {held == owner and 'held' or 'ended'}
end
if held == owner then redis.call('DEL', key) end
return {'ok'}
