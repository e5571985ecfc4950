"""What a run leaves behind: the schema of ``results.json``, version 1, and how it is read and written.

A run directory holds ``results.json`` (one `Run`, everything a report needs) and ``raw.ndjson`` (one
`RawSample` a line, everything a doubter needs: all summaries can be computed again from it). The structs
below are the schema; their docstrings are its documentation. Readers ignore fields they do not know, so
fields may be added within a version; a change of meaning is a new version.

Words used throughout:

* A *variant* is ``family/name`` as the registry prints it (``codec/struct``), or one of four kinds of
  yardstick that are no variants: ``peer/nats`` (another product), ``floor/…`` (the least any implementation
  could cost, e.g. a raw relay, an empty loop), ``ceiling/…`` (the most it could reach, e.g. a plain copy),
  and ``<reference>#again`` (the A/A control).
* A *case* is one metric of one workload with one set of parameters: what variants are compared in.
* A *block* ran every arm of a suite once, in a random order, each in a fresh process. Numbered from 0 within
  its suite.
* Values are in the case's ``unit``. Ratios are variant ÷ reference of the same case: below 1 is better when
  ``better`` is ``"lower"``, above 1 is better when it is ``"higher"``.
* Intervals are 95%, by bootstrap (`portask_lab.statistics`); ``None`` ends where there is nothing to
  resample.
"""

from portask_lab.results.conclusions import (
    Confirmation,
    ConfirmedFigure,
    Criterion,
    CriterionPart,
    Judgement,
    Winner,
)
from portask_lab.results.outcomes import (
    CONTROL_SUFFIX,
    Better,
    Block,
    Case,
    Conformance,
    CorpusInfo,
    Failure,
    FailureKind,
    Machine,
    Noise,
    NoiseFloor,
    Role,
    Scalar,
    Summary,
    Unavailable,
    Verdict,
)
from portask_lab.results.pictures import Curve, MemoryLine, Point, Trace
from portask_lab.results.store import (
    CONFIRMATION,
    RAW,
    RESULTS,
    SCHEMA,
    RawSample,
    ResultsError,
    Run,
    append_raw,
    case_id,
    load,
    read_raw,
    save,
)

__all__ = [
    "CONFIRMATION",
    "CONTROL_SUFFIX",
    "RAW",
    "RESULTS",
    "SCHEMA",
    "Better",
    "Block",
    "Case",
    "Confirmation",
    "ConfirmedFigure",
    "Conformance",
    "CorpusInfo",
    "Criterion",
    "CriterionPart",
    "Curve",
    "Failure",
    "FailureKind",
    "Judgement",
    "Machine",
    "MemoryLine",
    "Noise",
    "NoiseFloor",
    "Point",
    "RawSample",
    "ResultsError",
    "Role",
    "Run",
    "Scalar",
    "Summary",
    "Trace",
    "Unavailable",
    "Verdict",
    "Winner",
    "append_raw",
    "case_id",
    "load",
    "read_raw",
    "save",
]
