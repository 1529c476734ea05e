-- Replaces the record, if it still is what the caller saw.
-- KEYS: record.
-- ARGV: the bytes that were seen (empty: none), the new bytes, whom to announce as the new holder ("!" .. identity;
-- empty: nobody), the channel of changes. That is no key: while a cluster moves a slot it refuses scripts with several keys.
-- Returns 1 when it was replaced, else 0.
local stored = redis.call('GET', KEYS[1])
if ARGV[1] == '' then
  if stored then return 0 end
elseif stored ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[4], string.sub(ARGV[3], 2))
end
return 1
