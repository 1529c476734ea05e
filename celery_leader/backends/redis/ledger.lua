-- The ledger of one election, a hash: the field "token" for the term that opened it, a field "entry:<name>" for
-- each entry's last claim. A claim is "<due>|<sent: 0 or 1>|<claimed at>|<run count>|<length of the id>|<task id><schedule>";
-- times are microseconds since the epoch, and of id and schedule each may hold anything.
-- Numbers stay decimal text: Lua's are doubles, and would round them.
-- KEYS: ledger. ARGV: what to do, the caller's token, then for each entry its field and the claim (to confirm one: its
-- due time), or only the fields to forget, or, to open it and for each further page of it, the cursor (at first "0") and
-- about how many fields to return.
-- Returns {"refused", the begin of the token that opened it, or nil} or {"ok", results...}; of a page the results are
-- the next cursor ("0" after the last page), fields and values.
local key, verb, token = KEYS[1], ARGV[1], ARGV[2]

local GREATEST = '9007199254740991'

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local opened = redis.call('HGET', key, 'token')
local is_damaged = opened and (not string.match(opened, '^[1-9]%d*$') or less(GREATEST, opened))
local is_stale = opened and less(token, opened)
local is_lost = (verb == 'claim' or verb == 'confirm') and opened ~= token
if is_damaged or is_stale or is_lost then return {'refused', opened and string.sub(opened, 1, 200)} end
if verb == 'open' or verb == 'restore' then redis.call('HSET', key, 'token', token) end

local results = {'ok'}
if verb == 'open' or verb == 'page' then
  local page = redis.call('HSCAN', key, ARGV[3], 'COUNT', ARGV[4])
  results[2] = page[1]
  for _, part in ipairs(page[2]) do results[#results + 1] = part end
elseif verb == 'forget' then
  for i = 3, #ARGV do redis.call('HDEL', key, ARGV[i]) end
else
  for i = 3, #ARGV, 2 do
    local field, claim = ARGV[i], ARGV[i + 1]
    local due = string.match(claim, '^%d+')
    local stored = redis.call('HGET', key, field)
    local stored_due, rest
    if stored then stored_due, rest = string.match(stored, '^(%d+)|[01]|(.*)$') end
    if verb == 'confirm' then
      if stored_due == due then redis.call('HSET', key, field, due .. '|1|' .. rest) end
    elseif stored_due and not less(stored_due, due) then
      results[#results + 1] = 0
    else
      redis.call('HSET', key, field, claim)
      results[#results + 1] = 1
    end
  end
end
return results
