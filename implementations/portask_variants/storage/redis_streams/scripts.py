"""What the server decides, atomically: offsets, idempotence, trimming. Lua 5.1 (Redis, Valkey) and 5.4 (Dragonfly).

Two dialects, one text: numbers above 2^53 do not come up, integers stay integers (no ``/`` but under
``math.floor``), numbers become text through ``%.0f`` (5.1 would write 1.7e+15), there is no ``unpack``, no shebang.
Every key is declared, and all of a call carry one hash tag.

A stream entry is one record batch, verbatim but for its stamp. Its id is ``<last offset>-<records>``: so ``XRANGE key
OFFSET + COUNT 1`` is the batch that holds an offset, wherever in the batch it is, and the base offset is a subtraction.
Fields:

``b``  the batch. Bytes 8 to 15 of its stamp are the append time; the base offset is left to the reader, who has the id.
``s``  bytes of batches ever appended to the partition, this one included: so what is stored is a subtraction, too.
``t``  append time of the newest record, where neighbours were joined that came at different times.

All scripts answer in text: numbers joined by spaces, so that no dialect rounds them.
"""

from __future__ import annotations

from portask.wire.sequences import KEPT_BATCHES

NUMBERS = b"""
local function text(number) return string.format('%.0f', number) end
-- the same at half the cost, where both dialects write all digits by themselves
local function brief(number)
  if number < 100000000000000 then return number .. '' end
  return text(number)
end
local function number(value) return tonumber(value or 0) or 0 end
"""

CLOCK = b"""
local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
"""

_SEQUENCES = b"""
local CIRCLE, HALF = 4294967296, 2147483648
local function following(last)
  local next = (last + 1) % CIRCLE
  if next == 0 then return 1 end
  return next
end
local function is_before(a, b) return (a - b) % CIRCLE >= HALF end
local function standing(value)
  local epoch, last, kept = string.match(value, '^(%d+) (%d+) (.*)$')
  return {epoch = tonumber(epoch), last = tonumber(last), kept = kept}
end
local function standing_text(it) return text(it.epoch) .. ' ' .. text(it.last) .. ' ' .. it.kept end
"""

_ENTRIES = b"""
local function entry_at(stream, offset)
  local found = redis.call('XRANGE', stream, text(offset), '+', 'COUNT', '1')[1]
  if not found then return nil end
  local last, count = string.match(found[1], '^(%d+)-(%d+)$')
  local it = {last = tonumber(last), base = tonumber(last) - tonumber(count) + 1}
  local fields = found[2]
  for at = 1, #fields, 2 do it[fields[at]] = fields[at + 1] end
  return it
end
local function time_of(it)
  if it.t then return tonumber(it.t) end
  local time = 0
  for at = 16, 9, -1 do time = time * 256 + string.byte(it.b, at) end
  return time
end
-- the base offset of the first entry for which `holds`, which stays true once it is; `to` if there is none
local function first_that(stream, from, to, holds)
  local found = to
  while from < to do
    local middle = math.floor((from + to) / 2)
    local it = entry_at(stream, middle)
    if not it then
      to = middle
    elseif holds(it) then
      found = it.base
      to = math.min(middle, it.base)
    else
      from = it.last + 1
    end
  end
  return found
end
"""

APPEND = (
    NUMBERS
    + _SEQUENCES
    + b"""
local stream, meta, producers, writer = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local call = tonumber(ARGV[1])
local state = redis.call('HMGET', meta, 'next', 'time', 'bytes', 'trimmed')
local next, time = number(state[1]), number(state[2])
local bytes, trimmed = number(state[3]), number(state[4])
local before = redis.call('GET', writer)
if before then
  local number, outcomes = string.match(before, '^(%d+) (.*)$')
  if tonumber(number) == call then return {outcomes, text(next), text(bytes - trimmed), ARGV[1]} end
  if tonumber(number) > call then return redis.error_reply('PORTASK this write comes too late') end
end

local function stamped(data, time)
  local out = {string.sub(data, 1, 8)}
  for at = 2, 9 do
    out[at] = string.char(time % 256)
    time = math.floor(time / 256)
  end
  out[10] = string.sub(data, 17)
  return table.concat(out)
end

local known, changed = {}, {}
local function verdict(spec, count)
  local id, epoch, first, last, check = string.match(spec, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  epoch, first, last = tonumber(epoch), tonumber(first), tonumber(last)
  local it = known[id]
  if not it then
    local value = redis.call('HGET', producers, id)
    if value then it = standing(value) end
    known[id] = it
  end
  if it and epoch < it.epoch then return 'F' .. text(it.epoch) end
  if it and epoch == it.epoch then
    local expected = following(it.last)
    if first ~= expected then
      if not is_before(last, expected) then return 'S' .. text(expected) end
      for other, others, check_, stop in string.gmatch(it.kept, '(%d+):(%d+):(%d+):(%d+)') do
        if tonumber(others) == last then
          if tonumber(other) ~= first or check_ ~= check then return 'X' end
          return 'D' .. text(tonumber(stop) - count + 1)
        end
      end
      return 'D'
    end
  else
    it = {epoch = epoch, kept = ''}
    known[id] = it
  end
  return nil, id, it, first, last, check
end

local out, failure, begun, newest = {}, nil, 0, 0
for at = 3, #ARGV, 5 do
  local count, data = tonumber(ARGV[at]), ARGV[at + 4]
  if ARGV[at + 1] ~= '' then
    begun, newest = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  end
  local refusal, id, it, first, last, check
  if ARGV[at + 3] ~= '' then refusal, id, it, first, last, check = verdict(ARGV[at + 3], count) end
  if refusal then
    out[#out + 1] = refusal
  else
    local stop = next + count - 1
    local entry = brief(stop) .. '-' .. ARGV[at]
    local last_time = newest
    if begun < time then
      data = stamped(data, time)
      last_time = math.max(newest, time)
    end
    local sum = bytes + #data
    local reply
    if last_time > math.max(begun, time) then
      reply = redis.pcall('XADD', stream, entry, 'b', data, 's', brief(sum), 't', text(last_time))
    else
      reply = redis.pcall('XADD', stream, entry, 'b', data, 's', brief(sum))
    end
    if type(reply) == 'table' and reply.err then
      failure = reply.err
      break
    end
    out[#out + 1] = brief(next)
    next, bytes, time = stop + 1, sum, last_time
    if id then
      it.last = last
      local kept = text(first) .. ':' .. text(last) .. ':' .. check .. ':' .. text(stop)
      local rest, at = it.kept, 0
      for _ = 1, KEPT - 1 do
        at = string.find(rest, ',', at + 1, true)
        if not at then break end
      end
      if at then rest = string.sub(rest, 1, at - 1) end
      if rest ~= '' then kept = kept .. ',' .. rest end
      it.kept = kept
      changed[id] = it
    end
  end
end
if failure and #out == 0 then return redis.error_reply(failure) end
if failure then out[#out + 1] = '!' end
local outcomes = table.concat(out, ' ')
for id, it in pairs(changed) do redis.call('HSET', producers, id, standing_text(it)) end
redis.call('HSET', meta, 'next', text(next), 'time', text(time), 'bytes', text(bytes))
redis.call('SET', writer, ARGV[1] .. ' ' .. outcomes, 'PX', ARGV[2])
return {outcomes, text(next), text(bytes - trimmed), ARGV[1]}
"""
).replace(b"KEPT", b"%d" % KEPT_BATCHES)
"""Appends batches to one partition.

KEYS: stream, meta, producers, writer. ARGV: the call's number (of one writer, ascending), ms to remember it; then for
each batch its records, append time, append time of its newest record (both empty where they are those before),
``id epoch first last checksum`` of its producer or nothing, and its bytes.

Returns outcomes joined by spaces, the next offset, bytes stored, and the call's number. An outcome is a base offset;
or ``D`` and a base offset for a retry of what is stored (``D`` alone: nobody remembers where); ``S`` and the number
that is next; ``F`` and the newest epoch; ``X`` for other records under numbers that were used; ``!`` if the server has
no room for this and the rest. A call that comes again with the number of the last one gets its answer again and appends
nothing.
"""

RESUME = (
    NUMBERS
    + _SEQUENCES
    + b"""
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return '' end
local it, epoch, sequence = standing(value), tonumber(ARGV[2]), tonumber(ARGV[3])
if epoch > it.epoch then return '' end
if epoch < it.epoch or sequence == 0 then return 'F' .. text(it.epoch) end
if is_before(following(it.last), sequence) then
  it.last = (sequence - 1) % CIRCLE
  redis.call('HSET', KEYS[1], ARGV[1], standing_text(it))
end
return ''
"""
)
"""A producer says where it goes on. KEYS: producers. ARGV: id, epoch, next number (0: it has not begun).

Returns nothing, or ``F`` and the epoch that it cannot publish with.
"""

FIND = (
    NUMBERS
    + _ENTRIES
    + b"""
local state = redis.call('HMGET', KEYS[2], 'next', 'first', 'time')
if not state[1] then return '' end
local next, first, when = number(state[1]), number(state[2]), tonumber(ARGV[1])
if when > number(state[3]) then return text(next) end
return text(first_that(KEYS[1], first, next, function(it) return time_of(it) >= when end))
"""
)
"""The offset of the first record that was appended at a time or later. KEYS: stream, meta. ARGV: µs.

About log2(offsets) look-ups, each with one batch. Returns the offset, or nothing if there is no such partition.
"""

TRIM = (
    NUMBERS
    + _ENTRIES
    + b"""
local stream, meta, producers = KEYS[1], KEYS[2], KEYS[3]
local state = redis.call('HMGET', meta, 'next', 'first', 'bytes', 'trimmed')
if not state[1] then return '' end
local next, first, bytes, trimmed = number(state[1]), number(state[2]), number(state[3]), number(state[4])
local cut, most = tonumber(ARGV[1]), tonumber(ARGV[2])
if most >= 0 and bytes - trimmed > most then
  local keep = first_that(stream, first, next, function(it) return bytes - tonumber(it.s) + #it.b <= most end)
  cut = math.max(cut, keep)
end
cut = math.min(cut, next - 1)
if cut > first then
  redis.call('XTRIM', stream, 'MINID', '=', text(cut) .. '-0')
  local it = entry_at(stream, 0)
  if it and it.base > first then
    first, trimmed = it.base, tonumber(it.s) - #it.b
    redis.call('HSET', meta, 'first', text(first), 'trimmed', text(trimmed))
    local all = redis.call('HGETALL', producers)
    for at = 1, #all, 2 do
      local stop = string.match(all[at + 1], '^%d+ %d+ %d+:%d+:%d+:(%d+)')
      if not stop or tonumber(stop) < first then redis.call('HDEL', producers, all[at]) end
    end
  end
end
return text(first) .. ' ' .. text(next) .. ' ' .. text(bytes - trimmed)
"""
)
"""Forgets whole batches, never the newest. KEYS: stream, meta, producers. ARGV: offset, most bytes (-1 for any).

Returns the first offset, the next one and bytes stored, or nothing if there is no such partition.
"""

DECLARE = (
    NUMBERS
    + b"""
local have, least = number(redis.call('HGET', KEYS[1], ARGV[1])), tonumber(ARGV[3])
local want = have
if have == 0 then want = math.max(tonumber(ARGV[2]), least) elseif have < least then want = least end
if want ~= have then redis.call('HSET', KEYS[1], ARGV[1], text(want)) end
return text(want)
"""
)
"""Says that there is a topic. KEYS: topics. ARGV: its name, its partitions if it is new, its partitions at least.

Returns how many it has: what the first said, so that all brokers agree.
"""

BEAT = (
    NUMBERS
    + CLOCK
    + b"""
local now, life = clock(), tonumber(ARGV[2])
if life > 0 then redis.call('HSET', KEYS[1], ARGV[1], text(now + life)) else redis.call('HDEL', KEYS[1], ARGV[1]) end
local all, alive = redis.call('HGETALL', KEYS[1]), {}
for at = 1, #all, 2 do
  if tonumber(all[at + 1]) < now then redis.call('HDEL', KEYS[1], all[at]) else alive[#alive + 1] = all[at] end
end
return table.concat(alive, ' ')
"""
)
"""A broker says that it is alive, for so long; 0 for a farewell. KEYS: brokers. ARGV: its name, ms.

Returns the names of those that are, by the server's clock.
"""
