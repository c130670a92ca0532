"""The batched probe beside scikit-learn's LogisticRegression, on the same made-up embeddings and labels.

python tests/benchmarks/bench_probe.py                  # the study: 60,000 x 512, 1,468 phenotypes, one strength
python tests/benchmarks/bench_probe.py --rows 10000 --width 256 --phenotypes 150 --peers 20
python tests/benchmarks/bench_probe.py --device cuda
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import numpy as np
import torch

from phewas.learning.probe import fit_heads


def data(rows: int, width: int, phenotypes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings whose variances fall as networks' do, and labels of 0.5 to 30 %, a tenth excluded."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((width, width)) * (np.arange(1, width + 1) ** -0.5)[:, None]
    latent = rng.standard_normal((rows, width)).astype(np.float32)
    x = latent @ basis.astype(np.float32)
    prevalence = np.exp(rng.uniform(np.log(0.005), np.log(0.3), phenotypes))
    labels = np.empty((rows, phenotypes), dtype=np.int8)
    for p in range(phenotypes):
        logit = latent[:, :8] @ rng.normal(0, 0.25, 8) + np.log(prevalence[p] / (1 - prevalence[p]))
        labels[:, p] = rng.random(rows) < 1 / (1 + np.exp(-logit))
        labels[rng.random(rows) < 0.1, p] = -1
    return x, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--phenotypes", type=int, default=1_468)
    parser.add_argument("--peers", type=int, default=20, help="phenotypes that scikit-learn fits, too")
    parser.add_argument("--share", type=float, default=0.01, help="ridge strength per row")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    x, labels = data(asked.rows, asked.width, asked.phenotypes)
    device = torch.device(asked.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"device: {device.type}, {name}, load {os.getloadavg()[0]:.1f}")
    l2 = asked.share * asked.rows
    began, cpu = time.perf_counter(), time.process_time()
    heads = fit_heads(x, labels, l2=l2, device=device)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{asked.phenotypes} phenotypes x {asked.rows} x {asked.width}: {wall:.1f} s wall, {cpu:.1f} s CPU")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if not asked.peers:
        return
    from sklearn.linear_model import LogisticRegression

    z = (x.astype(np.float64) - heads.mean) / heads.scale
    worst, theirs_wall, theirs_cpu = 0.0, 0.0, 0.0
    for p in np.linspace(0, asked.phenotypes - 1, asked.peers).astype(int):
        kept = labels[:, p] >= 0
        a, b = time.perf_counter(), time.process_time()
        peer = LogisticRegression(C=1 / l2, max_iter=1000).fit(z[kept], labels[kept, p])
        theirs_wall, theirs_cpu = theirs_wall + time.perf_counter() - a, theirs_cpu + time.process_time() - b
        exact = LogisticRegression(C=1 / l2, max_iter=10_000, tol=1e-8).fit(z[kept], labels[kept, p])
        worst = max(worst, np.abs(exact.coef_[0] - heads.weight[:, p]).max(), abs(exact.intercept_[0] - heads.bias[p]))
        loose = np.abs(peer.coef_[0] - exact.coef_[0]).max()
    scale = asked.phenotypes / asked.peers
    print(f"largest difference of a coefficient, {asked.peers} phenotypes: {worst:.1e} (asked: below 1e-3)")
    print(f"of scikit-learn at its default tolerance, for one of them: {loose:.1e}")
    print(f"scikit-learn, default tolerance: {theirs_wall * scale:.0f} s wall, {theirs_cpu * scale:.0f} s CPU")
    print(f"ratio: {theirs_wall * scale / wall:.1f} wall, {theirs_cpu * scale / cpu:.1f} CPU (goal: 10)")


if __name__ == "__main__":
    main()
