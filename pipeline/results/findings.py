"""What a run that seems to have gone well should be told all the same: its warnings."""

import math
from collections.abc import Mapping

from vaefill.model.config import SamplerConfig
from vaefill.model.preprocessing import GREY_UNDER_A_THRESHOLD
from vaefill.records import signs
from vaefill.records.text import printable
from vaefill.results.documents import RunWarning

_MOST_LIKELY = 0.9  # of the records that tell, those by which a mask is taken for inverted


def of_tally(tally: Mapping[str, int], binarize: str) -> tuple[RunWarning, ...]:
    """The warnings at the end of a run, at most one of a kind, each with the fix.

    Args:
        tally: the signs of all records that were read, counted; 0 for what nobody has counted.
        binarize: see `record.binarize`.
    """
    found = (_nothing_missing(tally), _mask_inverted(tally), _truth_contradicts(tally))
    return *(warning for warning in found if warning), *of_complete(tally, binarize)


def of_complete(tally: Mapping[str, int], binarize: str) -> tuple[RunWarning, ...]:
    """Those of them that records may give before anything is hidden.

    Args:
        tally, binarize: as for `of_tally`.
    """
    warning = _grey_values(tally) if binarize == "threshold" else None
    return (warning,) if warning else ()


def of_misfits(
    asked: SamplerConfig, used: SamplerConfig, num_calibration: int
) -> tuple[RunWarning, ...]:
    """The warning that misfits are not told at the default rate, if they are not.

    Args:
        asked: the configured sampler.
        used: the same with a rate that the model allows for.
        num_calibration: calibration records of the model.
    """
    if used.misfit_rate == asked.misfit_rate:
        return ()
    needed = math.ceil(1 / asked.misfit_rate) - 1
    text = (
        f"misfits are told at a rate of {used.misfit_rate:g} and not of {asked.misfit_rate:g}, "
        f"which takes {needed:,} calibration records and not {num_calibration:,}; train with "
        f"train.num_calibration of {needed:,} or more and twice as many validation records, or set "
        f"sampler.misfit_rate to {used.misfit_rate:g} or more"
    )
    return (RunWarning(code="misfit_rate", text=text),)


def _nothing_missing(tally: Mapping[str, int]) -> RunWarning | None:
    num = tally[signs.DECODED]
    if not num or tally[signs.COMPLETE] < num:
        return None
    said = f"none of {num:,} records lacks a value, so nothing was imputed"
    found = [(-count, name) for name, count in tally.items() if name.startswith(signs.LIKE_MASK)]
    if not found:
        fix = "what is missing is said by a feature 'observed', where 1 is observed"
        return RunWarning(code="nothing_missing", text=f"{said}; {fix}")
    name = printable(min(found)[1].removeprefix(signs.LIKE_MASK))
    fix = "looks like a mask: name it 'observed', where 1 is observed and 0 is missing"
    return RunWarning(code="nothing_missing", text=f"{said}; the surplus feature '{name}' {fix}")


def _mask_inverted(tally: Mapping[str, int]) -> RunWarning | None:
    inverted, upright = tally[signs.INVERTED], tally[signs.UPRIGHT]
    if not inverted or inverted < _MOST_LIKELY * (inverted + upright):
        return None
    text = (
        f"the mask may be inverted: in {inverted:,} of {inverted + upright:,} records what is "
        "observed looks like a filler, and what is missing like values; "
        "1 is observed and 0 is missing, so invert 'observed' if it means the reverse"
    )
    return RunWarning(code="mask_inverted", text=text)


def _grey_values(tally: Mapping[str, int]) -> RunWarning | None:
    num_grey, num = tally[signs.GREY], tally[signs.DECODED]
    if 2 * num_grey <= num:
        return None
    text = GREY_UNDER_A_THRESHOLD % f"{num_grey:,} of {num:,} records"
    return RunWarning(code="grey_values", text=text)


def _truth_contradicts(tally: Mapping[str, int]) -> RunWarning | None:
    contradicted = tally[signs.CONTRADICTED]
    if not contradicted:
        return None
    text = (
        f"the truth contradicts observed values in {contradicted:,} of "
        f"{tally[signs.WITH_TRUTH]:,} records, so their scores mean little; "
        "'truth' must be the complete record that 'image' was made of, in the same units"
    )
    return RunWarning(code="truth_contradicts", text=text)
