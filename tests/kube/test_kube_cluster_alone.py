"""Real clusters for tests run one after the other, and beside no kubelet of the machine's own."""

from __future__ import annotations

import fcntl
from pathlib import Path

from teleport.testing.kube_cluster import has_another


def test_a_kubelet_of_a_test_is_waited_for_and_one_of_the_machine_is_left_alone(tmp_path: Path) -> None:
    """What is skipped where another test has its cluster would be skipped by chance."""
    kubelet, lock = tmp_path / "kubelet", tmp_path / "lock"
    assert not has_another(kubelet, lock)
    kubelet.mkdir()
    assert has_another(kubelet, lock)
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not has_another(kubelet, lock)
    assert has_another(kubelet, lock)
