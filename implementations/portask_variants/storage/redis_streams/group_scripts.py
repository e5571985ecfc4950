"""How brokers share a group's records in one partition, decided by the server. Dialect and rules as in `scripts`.

One hash a group and partition, under the partition's hash tag:

``next``     the first offset that no broker got
``counts``   acknowledged, redelivered, dead-lettered, skipped: records, of all brokers since the group was made
``b B``      until when the broker B is taken to be there, ms of the server's clock; 0 of one that left items
``o B``      number of its last call that changed something
``i B n``    what its call n got: ``R first last``, fresh records; or ``S`` and a state that another broker had
             reported; n = 0: ``S`` and the state that it reported itself

So whatever was handed out stands in exactly one item, until its broker reports a state that covers it. Items of a
broker whose time is over go to whoever asks, one a call, before anything fresh does. A broker that was late finds its
``b`` gone, and is told: it must forget what it has, for others may have it.

Calls carry ascending numbers, so that one that comes again changes nothing.
"""

from __future__ import annotations

from portask_variants.storage.redis_streams.scripts import CLOCK, NUMBERS

_ITEMS = b"""
local function items_of(key, broker)
  local found = {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local owner, at = string.match(name, '^i (%x+) (%d+)$')
    if owner == broker then found[#found + 1] = tonumber(at) end
  end
  table.sort(found)
  return found
end
local function forget(key, broker) redis.call('HDEL', key, 'b ' .. broker, 'o ' .. broker) end
"""

BEGIN = (
    NUMBERS
    + CLOCK
    + b"""
local key, groups = KEYS[1], KEYS[2]
if not redis.call('HGET', key, 'next') then
  redis.call('HSET', key, 'next', ARGV[4])
  redis.call('HSET', groups, ARGV[1], '1')
end
redis.call('HSET', key, 'b ' .. ARGV[2], text(clock() + tonumber(ARGV[3])))
return ''
"""
)
"""A broker takes part. KEYS: group, groups. ARGV: its name, broker, ms, the first offset if it is new."""

CLAIM = (
    NUMBERS
    + CLOCK
    + _ITEMS
    + b"""
local key, meta, me, call = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
if not redis.call('HGET', key, 'b ' .. me) then return 'lost' end
local slot = 'i ' .. me .. ' ' .. ARGV[2]
if call <= number(redis.call('HGET', key, 'o ' .. me)) then return redis.call('HGET', key, slot) or '' end
local now = clock()
redis.call('HSET', key, 'o ' .. me, ARGV[2], 'b ' .. me, text(now + tonumber(ARGV[3])))
for _, name in ipairs(redis.call('HKEYS', key)) do
  local other = string.match(name, '^b (%x+)$')
  if other and other ~= me and number(redis.call('HGET', key, name)) < now then
    local left = items_of(key, other)
    if #left < 2 then forget(key, other) end
    if #left > 0 then
      local from = 'i ' .. other .. ' ' .. text(left[1])
      local item = redis.call('HGET', key, from)
      redis.call('HDEL', key, from)
      redis.call('HSET', key, slot, item)
      return item
    end
  end
end
local next, stop = number(redis.call('HGET', key, 'next')), number(redis.call('HGET', meta, 'next'))
if next > stop then -- the log lost its end, and gives those offsets out again
  next = stop
  redis.call('HSET', key, 'next', text(next))
end
if next == stop then return '' end
local last = math.min(next + tonumber(ARGV[4]), stop) - 1
local item = 'R ' .. text(next) .. ' ' .. text(last)
redis.call('HSET', key, 'next', text(last + 1), slot, item)
return item
"""
)
"""A broker wants records. KEYS: group, meta. ARGV: broker, number, ms, most records.

Returns an item, nothing, or ``lost``.
"""

REPORT = (
    NUMBERS
    + CLOCK
    + _ITEMS
    + b"""
local key, me, call, claims = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local counts = redis.call('HGET', key, 'counts') or '0 0 0 0'
if not redis.call('HGET', key, 'b ' .. me) then return 'lost' end
if call <= number(redis.call('HGET', key, 'o ' .. me)) then return '' end
for _, at in ipairs(items_of(key, me)) do
  if at <= claims then redis.call('HDEL', key, 'i ' .. me .. ' ' .. text(at)) end
end
if ARGV[5] ~= '' then redis.call('HSET', key, 'i ' .. me .. ' 0', 'S' .. ARGV[5]) end
local sum, at = {}, 7
for count in string.gmatch(counts, '%d+') do
  sum[#sum + 1] = text(tonumber(count) + tonumber(ARGV[at]))
  at = at + 1
end
redis.call('HSET', key, 'counts', table.concat(sum, ' '))
if ARGV[6] == '1' then
  redis.call('HSET', key, 'o ' .. me, ARGV[2], 'b ' .. me, text(clock() + tonumber(ARGV[3])))
elseif #items_of(key, me) > 0 then
  redis.call('HSET', key, 'o ' .. me, ARGV[2], 'b ' .. me, '0')
else
  forget(key, me)
end
return ''
"""
)
"""A broker says what it holds. KEYS: group. ARGV: broker, number, ms, the last claim that this covers, its state (empty
for nothing), 1 if it stays, and what to add to the four counts. Returns nothing, or ``lost``.
"""

RENEW = (
    NUMBERS
    + CLOCK
    + b"""
local key, meta, me, now = KEYS[1], KEYS[2], ARGV[1], clock()
if not redis.call('HGET', key, 'b ' .. me) then return 'lost' end
redis.call('HSET', key, 'b ' .. me, text(now + tonumber(ARGV[2])))
if number(redis.call('HGET', key, 'next')) ~= number(redis.call('HGET', meta, 'next')) then return '+' end
for _, name in ipairs(redis.call('HKEYS', key)) do
  local other = string.match(name, '^b (%x+)$')
  if other and number(redis.call('HGET', key, name)) < now then return '+' end
end
return ''
"""
)
"""A broker is still there. KEYS: group, meta. ARGV: broker, ms.

Returns ``+`` if there is something to claim, ``lost``, or nothing.
"""

DROP = (
    NUMBERS
    + CLOCK
    + b"""
local key, groups, now = KEYS[1], KEYS[2], clock()
for _, name in ipairs(redis.call('HKEYS', key)) do
  if string.match(name, '^b %x+$') and number(redis.call('HGET', key, name)) >= now then return 'busy' end
end
if ARGV[2] == '1' then
  redis.call('DEL', key)
  redis.call('HDEL', groups, ARGV[1])
end
return ''
"""
)
"""Forgets a group in one partition. KEYS: group, groups. ARGV: its name, 1 to do it (else only to see whether it may).

Returns ``busy`` if a broker has members of it, or nothing.
"""

AGREE = b"""
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then return known end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
"""
"""What a group's members agree on. KEYS: groups of the store. ARGV: its name, settings for a new one."""
