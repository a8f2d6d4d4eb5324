"""Keeps the actors of a simulated scene apart from one another and from the ego vehicle at all times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.simulator import constants as const
from pdetr3d.simulator.world import Actor, EgoPath, actor_poses

STEP_S = 0.2  # between two times at which overlaps are tested


class Space:
    """The space of a scene.

    Attributes:
        actors: those placed so far. times: (T,) [s], at which footprints must not overlap.
    """

    def __init__(self, ego: EgoPath, duration_s: float) -> None:
        self.actors: list[Actor] = []
        self.times = np.arange(-0.5, duration_s + STEP_S, STEP_S)
        middle = ego.pose(self.times)
        middle[:, 0] += const.EGO_CENTER_M * np.cos(middle[:, 2])
        middle[:, 1] += const.EGO_CENTER_M * np.sin(middle[:, 2])
        self._poses = middle[None]
        self._half = np.array([const.EGO_SIZE_M]) / 2

    def place(self, actor: Actor, gap_m: float = 0.25) -> bool:
        """Add ``actor`` unless its footprint, grown by ``gap_m``, overlaps another at any time; returns whether."""
        poses = actor_poses([actor], self.times)[0]
        half = np.array(actor.size_m[:2]) / 2
        if _overlaps(poses, half + gap_m, self._poses, self._half):
            return False
        self.actors.append(actor)
        self._poses = np.concatenate([self._poses, poses[None]])
        self._half = np.concatenate([self._half, half[None]])
        return True


def _overlaps(
    poses: NDArray[np.float64], half: NDArray[np.float64], others: NDArray[np.float64], other_half: NDArray[np.float64]
) -> bool:
    """Whether a moving rectangle overlaps any of N others at any time (separating-axis test).

    Args:
        poses: (T, 3) x, y, yaw. half: (2,) half length and width [m]. others: (N, T, 3). other_half: (N, 2).
    """
    d = others[:, :, :2] - poses[None, :, :2]
    near = (
        np.hypot(d[..., 0], d[..., 1]) < np.hypot(*half) + np.hypot(other_half[:, 0], other_half[:, 1])[:, None]
    ).any(axis=1)
    if not near.any():
        return False
    d, others, other_half = d[near], others[near], other_half[near]
    c, s = np.cos(others[..., 2] - poses[None, :, 2]), np.sin(others[..., 2] - poses[None, :, 2])
    ca, sa = np.cos(poses[None, :, 2]), np.sin(poses[None, :, 2])
    ax, ay = ca * d[..., 0] + sa * d[..., 1], -sa * d[..., 0] + ca * d[..., 1]
    bx, by = c * ax + s * ay, -s * ax + c * ay
    c, s = np.abs(c), np.abs(s)
    bl, bw = other_half[:, :1], other_half[:, 1:]
    apart = (np.abs(ax) > half[0] + c * bl + s * bw) | (np.abs(ay) > half[1] + s * bl + c * bw)
    apart |= (np.abs(bx) > bl + c * half[0] + s * half[1]) | (np.abs(by) > bw + s * half[0] + c * half[1])
    return bool((~apart).any())
