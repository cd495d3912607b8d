"""Which checkpoint to take: the onset of the plateau of a learning curve.

Training on beyond it costs time and, against a learned judge, invites tricks. The paper behind simgym (arXiv
2605.09808) takes the checkpoint at the onset of the reward plateau without a formula; the one here is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def plateau_onset(rewards: Sequence[float], *, window: int = 3, tolerance: float = 0.1) -> int:
    """The first checkpoint that is about as good as the best.

    The curve behind the first value is smoothed by a centred mean of `window` values (fewer, but as many on both sides,
    near its ends); the onset is the first index whose smoothed value lies within `tolerance` of the whole gain below
    the smoothed maximum.

    Args:
        rewards: Validation rewards in the order of training, the initial model's first; at least one, all finite.
        window: Odd, >= 1.
        tolerance: Share of the gain that may be missing, in [0, 1).

    Returns:
        An index into `rewards`; 0 if nothing was gained.

    Raises:
        ValueError: there are no rewards, one is not finite, or an argument is out of range.
    """
    curve = np.asarray(rewards, dtype=np.float64)
    if not curve.size or not np.isfinite(curve).all():
        raise ValueError("Got no rewards, or one that is not finite. Leave evaluations that failed out.")
    if window < 1 or window % 2 == 0 or not 0 <= tolerance < 1:
        raise ValueError(f"window is {window} and tolerance {tolerance}, expected an odd number >= 1 and [0, 1).")
    smooth = curve.copy()
    for at in range(1, curve.size):
        half = min(window // 2, at - 1, curve.size - 1 - at)
        smooth[at] = curve[at - half : at + half + 1].mean()
    missing = tolerance * (smooth.max() - smooth[0])
    return int(np.argmax(smooth >= smooth.max() - missing - 1e-12))  # equal up to rounding
