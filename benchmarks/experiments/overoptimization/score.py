"""Gold and proxy over √KL, Gao's fits, and best-of-n's exact KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textgym.benchmarks.analysis.seeds import BLOCKS, block_means, mean_line, root_kl, surely_above
from textgym.benchmarks.analysis.statistics import FEWEST_SEEDS, mean_estimate
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.experiments.overoptimization.best_of_n import kl_bound
from textgym.benchmarks.experiments.overoptimization.fits import Fit, Form, enough_points, fit_form
from textgym.benchmarks.experiments.overoptimization.task import ENUMERATION
from textgym.benchmarks.proxies.models import SIZES
from textgym.benchmarks.runner.experiment import Result, Results
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table
from textgym.types import FloatArray, IntArray

ROOT_KL = "√KL to the base model, √nats"
METHODS: tuple[tuple[str, Form], ...] = (("rl", "rl"), ("best_of_n", "best-of-n"))
"""How a proxy is optimised, as results call it, and the form that Gao found for it."""


@dataclass(frozen=True)
class ProxyArm:
    """The runs, one for each seed, of one proxy optimised by one algorithm.

    Attributes:
        group: names the task and the algorithm where there are several of either; else empty.
        size: size of the proxy.
        labels: number of labels that it was trained on.
        runs: their results.
    """

    group: str
    size: str
    labels: int
    runs: tuple[Result, ...]

    @property
    def name(self) -> str:
        """A short name, for a row."""
        return f"{self.group}{self.size}, {self.labels} labels"


@dataclass(frozen=True)
class MethodCurve:
    """A method's course, ``[n_seeds, m]`` each: √KL, gold, and proxy."""

    d: FloatArray
    gold: FloatArray
    proxy: FloatArray


def overoptimization_findings(results: Results) -> Findings:
    """Return the findings about any part of the sweep."""
    arms = proxy_arms([(job, result) for job, result in results if job.algorithm != ENUMERATION])
    enumerated = [(job, result) for job, result in results if job.algorithm == ENUMERATION]
    tables = [kl_table(enumerated)] if enumerated else []
    if not arms:
        return Findings("No proxy has been optimised yet.", tuple(tables))
    return Findings(
        overoptimization_headline(arms),
        (falls_table(arms), *(fits_table(arms, method) for method, _ in METHODS), *tables),
        tuple(figure for method, form in METHODS for figure in method_figures(arms, method, form)),
    )


def proxy_arms(results: Results) -> list[ProxyArm]:
    """Group results by all but their seeds; sizes and counts of labels rise."""
    runs: dict[tuple[str, str, str, int], list[Result]] = {}
    for job, result in results:
        runs.setdefault((job.task, job.label, job.arm["size"], job.arm["labels"]), []).append(result)
    several = len({key[:2] for key in runs}) > 1
    return [
        ProxyArm(f"{algorithm} on {task}, " if several else "", size, labels, tuple(own))
        for (task, algorithm, size, labels), own in sorted(runs.items(), key=lambda item: _order(*item[0]))
    ]


def _order(task: str, algorithm: str, size: str, labels: int) -> tuple[str, str, int, int]:
    """Return a sort key, by which small proxies come before large ones."""
    return task, algorithm, SIZES.index(size), labels


def method_curve(arm: ProxyArm, method: str) -> MethodCurve:
    """Return RL's course as means over :data:`BLOCKS` parts of the run, or best-of-n's at each n."""

    def column(name: str) -> FloatArray:
        rows = [[float(point[name]) for point in run[method]] for run in arm.runs]
        return block_means(rows) if method == "rl" else np.array(rows)

    return MethodCurve(root_kl(column("kl")), column("gold"), column("proxy"))


# --- tables ------------------------------------------------------------------------------------------------


def peaks(gold: FloatArray) -> IntArray:
    """Return the part of each curve ``[n_seeds, m]`` in which the mean of the other seeds is highest, ``[n_seeds]``.

    The seed's own curve is left out: the maximum of a noisy curve is biased upwards, and its end would look like a
    fall.
    """
    # Leave-one-out sums have the same argmax as leave-one-out means.
    others = gold.sum(0) - gold if len(gold) > 1 else gold
    found: IntArray = others.argmax(1)
    return found


def at(values: FloatArray, parts: IntArray) -> FloatArray:
    """Return each seed's value in its part, ``[n_seeds]`` of ``[n_seeds, m]``."""
    found: FloatArray = np.take_along_axis(values, parts[:, None], axis=1)[:, 0]
    return found


def falls(arm: ProxyArm) -> tuple[IntArray, FloatArray]:
    """Return the part where gold peaks, and the fall of gold from there to the end, ``[n_seeds]`` each."""
    gold = method_curve(arm, "rl").gold
    peak = peaks(gold)
    return peak, at(gold, peak) - gold[:, -1]


def falls_table(arms: Sequence[ProxyArm]) -> Table:
    """Return a row for each proxy: its quality, and gold under optimisation by RL."""
    rows = []
    for arm in arms:
        found, (peak, fall) = method_curve(arm, "rl"), falls(arm)
        rows.append(
            (
                arm.name,
                over_seeds([run["agreement"] for run in arm.runs]),
                float(np.mean([run["gold"] for run in arm.runs])),
                over_seeds(at(found.gold, peak)),
                float(at(found.d, peak).mean()),
                over_seeds(list(found.gold[:, -1])),
                over_seeds(list(fall)),
                over_seeds(found.proxy[:, -1] - at(found.proxy, peak)),
                len(arm.runs),
            )
        )
    return Table(
        "Gold reward under optimisation by RL",
        (
            "proxy",
            "agrees with gold",
            "gold before",
            "gold at its peak",
            "√KL at the peak",
            "gold at the end",
            "fall of gold since the peak",
            "rise of the proxy since the peak",
            "seeds",
        ),
        tuple(rows),
        "Agreement: share of pairs of the base model's responses, unequal in gold, that the proxy orders as gold does. "
        f"A run's curve is averaged over {BLOCKS} parts; the peak of a seed is the part in which the mean of the other "
        "seeds is highest. The proxy is in standard deviations of its scores on the base model's responses.",
    )


def fits_of(arm: ProxyArm, method: str, form: Form) -> list[Fit]:
    """Return a fit for each seed, to every iteration or every n; none if a run was too short for one.

    Best-of-n draws from the very responses that the reference is measured on; RL writes its own, to other prompts.
    """
    fits = []
    for run in arm.runs:
        kl, gold = (np.array([point[name] for point in run[method]], np.float64) for name in ("kl", "gold"))
        # See fits.py: RL's prompts are not those that the reference was measured on.
        start = None if method == "rl" else run["gold"]
        if not enough_points(kl, start):
            return []
        fits.append(fit_form(form, root_kl(kl), gold, start))
    return fits


def aic_gaps(by_n: Sequence[Fit], by_rl: Sequence[Fit]) -> list[float]:
    """Return AIC of best-of-n's form less that of RL's, of each seed; above 0 RL's form fits better."""
    return [n.aic - rl.aic for n, rl in zip(by_n, by_rl, strict=True)]


def fits_table(arms: Sequence[ProxyArm], method: str) -> Table:
    """Return α and β of both forms, and the difference of their AIC."""
    rows = []
    for arm in arms:
        by_n, by_rl = fits_of(arm, method, "best-of-n"), fits_of(arm, method, "rl")
        if not by_n:
            continue
        row: list[Cell] = [arm.name]
        for fits in (by_n, by_rl):
            row += [over_seeds([f.alpha for f in fits]), over_seeds([f.beta for f in fits])]
            row += [float(np.mean([f.r2 for f in fits]))]
        rows.append((*row, over_seeds(aic_gaps(by_n, by_rl)), len(arm.runs)))
    name = "RL" if method == "rl" else "best-of-n"
    return Table(
        f"Gao's forms fitted to {name}",
        (
            "proxy",
            "α of d(α − βd)",
            "β of d(α − βd)",
            "R² of d(α − βd)",
            "α of d(α − β log d)",
            "β of d(α − β log d)",
            "R² of d(α − β log d)",
            "AIC of the first less the second",
            "seeds",
        ),
        tuple(rows),
        "d = √KL; the gain of gold over the base model is fitted by least squares for each seed"
        f"{', and so is its start' if method == 'rl' else ''}. An AIC difference above 0 favours d(α − β log d), one "
        "below 0 d(α − βd). AIC treats neighbouring points as independent, so only an interval over seeds that "
        "excludes 0 is evidence.",
    )


def kl_table(results: Results) -> Table:
    """Return the KL of best-of-n by enumeration, and its bound."""
    counts = [point["n"] for point in results[0][1]["best_of_n"]]
    bound = kl_bound(counts)
    rows: list[tuple[Cell, ...]] = []
    for i, n in enumerate(counts):
        exact = [float(result["best_of_n"][i]["kl"]) for _, result in results]
        rows.append((n, float(bound[i]), *(cell for kl in exact for cell in (kl, kl / bound[i] if bound[i] else None))))
    columns = [name for job, _ in results for name in (f"KL on {job.task}", f"share of the bound, {job.task}")]
    return Table(
        "KL of best-of-n and its bound",
        ("n", "log n − (n − 1)/n", *columns),
        tuple(rows),
        "In nats, by enumeration of every response, the best of n chosen by gold. The KL is below the bound where "
        "rewards tie or one response has much of the probability.",
    )


# --- figures -----------------------------------------------------------------------------------------------


def method_figures(arms: Sequence[ProxyArm], method: str, form: Form) -> list[Figure]:
    """Draw gold with its fit over √KL for each size of proxy and, for RL, the proxy's own score."""
    name, term = ("RL", " log d") if method == "rl" else ("best-of-n", "d")
    figures = []
    for group, size in dict.fromkeys((arm.group, arm.size) for arm in arms):
        own = {f"{arm.labels} labels": arm for arm in arms if (arm.group, arm.size) == (group, size)}
        curves = {label: method_curve(arm, method) for label, arm in own.items()}
        gold = {label: PlotLine(found.d.mean(0), found.gold.mean(0)) for label, found in curves.items()}
        fits = {label: found for label, arm in own.items() if (found := fits_of(arm, method, form))}
        gold |= {f"{label}, fitted": _fitted(found, curves[label], label) for label, found in fits.items()}
        caption = f"Solid: mean over seeds. Dashed: d(α − β{term}), fitted to each seed, with mean and 95 % interval."
        figures.append(
            Figure(f"Gold under {name}, {group}{size} proxies", line_plot(gold, ROOT_KL, "gold reward"), caption)
        )
        if method == "rl":
            proxy = {label: mean_line(found.d, found.proxy) for label, found in curves.items()}
            picture = line_plot(proxy, ROOT_KL, "proxy, standard deviations")
            caption = (
                "The reward that RL optimises, in standard deviations on the base model's responses. Bands are 95 % "
                "intervals over seeds."
            )
            figures.append(Figure(f"Proxy score under RL, {group}{size} proxies", picture, caption))
    return figures


def _fitted(fits: Sequence[Fit], measured: MethodCurve, label: str) -> PlotLine:
    """Return the mean of the seeds' fitted curves, as far as the seeds went on average."""
    d = np.linspace(0, float(measured.d.mean(0).max()), 51)[1:]
    line = mean_line(np.tile(d, (len(fits), 1)), np.array([fit.reward(d) for fit in fits]))
    return replace(line, dashed=True, follows=label)


# --- the sentence ------------------------------------------------------------------------------------------


def overoptimization_headline(arms: Sequence[ProxyArm]) -> str:
    """Return the number of over-optimised proxies, the worst of them, and the form that RL follows."""
    spoiled = [arm for arm in arms if _is_spoiled(arm)]
    if spoiled:
        worst = max(spoiled, key=lambda arm: float(falls(arm)[1].mean()))
        peak, fall = falls(worst)
        top, lost = float(at(method_curve(worst, "rl").gold, peak).mean()), mean_estimate(fall)
        first = (
            f"Under RL, gold rose and then fell while the proxy kept rising for {len(spoiled)} of {len(arms)} proxies, "
            f"with {worst.name} from {top:.2f} by {lost.value:.2f} ({lost.low:.2f} … {lost.high:.2f})"
        )
    elif max(len(arm.runs) for arm in arms) < FEWEST_SEEDS:
        first = f"At least {FEWEST_SEEDS} seeds are needed to tell if gold falls under RL"
    else:
        first = (
            f"Under RL, gold did not significantly fall after its peak for any of {len(arms)} proxies at this budget"
        )
    pairs = ((fits_of(arm, "rl", "best-of-n"), fits_of(arm, "rl", "rl")) for arm in arms)
    # Proxies whose runs were too short for a fit have no AIC.
    gaps = [np.array(aic_gaps(*pair)) for pair in pairs if all(pair)]
    if not gaps:
        return f"{first}; the runs are too short for fits."
    log, linear = sum(surely_above(gap) for gap in gaps), sum(surely_above(-gap) for gap in gaps)
    return (
        f"{first}; RL's gold significantly follows d(α − β log d) for {log} and d(α − βd) for {linear} of {len(gaps)}."
    )


def _is_spoiled(arm: ProxyArm) -> bool:
    """Return True if gold rose above the base model's and then fell significantly while the proxy rose."""
    found, (peak, fall) = method_curve(arm, "rl"), falls(arm)
    before = np.array([run["gold"] for run in arm.runs])
    rose = at(found.gold, peak) - before
    proxy = found.proxy[:, -1] - at(found.proxy, peak)
    return all(surely_above(values) for values in (rose, fall, proxy))
