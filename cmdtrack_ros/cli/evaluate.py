"""`cmdtrack evaluate`, `evaluate-bag`, `evaluate-confidence`, `evaluate-pose`, `score`, `report` and
`blackout`: how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmdtrack_ros.boxes import parse_box
from cmdtrack_ros.cli import options as o
from cmdtrack_ros.evaluation.protocols import Protocol
from cmdtrack_ros.streams.pairing import PairOptions
from cmdtrack_ros.streams.registration import read_registration

if TYPE_CHECKING:
    from cmdtrack_ros.data import ImageSequence
    from cmdtrack_ros.evaluation.replay import Replay
    from cmdtrack_ros.evaluation.scoring import Scores

Dataset = Annotated[list[Path], typer.Argument(help="Sequence folders, or folders of sequences.")]
ProtocolOption = Annotated[Protocol, typer.Option(help="How trackers are driven; auto = as the benchmark does.")]


def evaluate(
    dataset: Dataset,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for results, summary.json and report.html. Finished sequences in it are not run again."
        ),
    ],
    tracker: Annotated[
        list[str],
        typer.Option(
            help="ours, csrt, kcf, mil, mosse, nanotrack or vit, each with @rgb or @aux for one stream. "
            "Repeat for several; summary.json's `mean` is the first one's."
        ),
    ] = ["ours"],  # noqa: B006 - typer wants a list
    weights: o.WeightsOption = None,
    nanotrack_weights: Annotated[Path | None, typer.Option(help="Folder of NanoTrack's two ONNX files.")] = None,
    vit_weights: Annotated[Path | None, typer.Option(help="ONNX file of OpenCV's ViT tracker.")] = None,
    device: o.DeviceOption = "cpu",
    layout: o.LayoutOption = "auto",
    protocol: ProtocolOption = Protocol.AUTO,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; each computes on one thread.")] = 1,
) -> None:
    """Run trackers over a data set, score them as its benchmark does, and write a report."""
    from cmdtrack_ros.evaluation import runner
    from cmdtrack_ros.evaluation.baselines import parse_spec

    specs = [parse_spec(text, nanotrack_weights, vit_weights, weights, device) for text in dict.fromkeys(tracker)]
    scores, sequences = runner.evaluate(dataset, specs, output, layout=layout, protocol=protocol, jobs=jobs)
    title = "Evaluation on " + ", ".join(path.resolve().name for path in dataset)
    _finish(scores, sequences, output, title)


def score(
    results: Annotated[Path, typer.Argument(help="A tracker's folder of result files, or a folder of such folders.")],
    dataset: Dataset,
    output: Annotated[
        Path | None, typer.Option(help="Folder for summary.json and report.html; the results' own by default.")
    ] = None,
    layout: o.LayoutOption = "auto",
    protocol: ProtocolOption = Protocol.AUTO,
) -> None:
    """Score result files that any program wrote, without running a tracker."""
    from cmdtrack_ros.evaluation import runner
    from cmdtrack_ros.evaluation.scoring import score_folder

    entries, broken = runner.open_dataset(dataset, layout, protocol)
    scores = score_folder(results, [(entry.sequence, entry.protocol) for entry in entries], broken)
    output = output or results
    runner.write_summary(output / runner.SUMMARY, scores)
    _finish(
        scores,
        {entry.sequence.name: entry.sequence for entry in entries},
        output,
        f"Scores of {results.resolve().name}",
    )


def report(
    evaluations: Annotated[list[Path], typer.Argument(help="Output folders of `cmdtrack evaluate` or `evaluate-bag`.")],
    output: Annotated[Path, typer.Option(help="The HTML file to write.")],
) -> None:
    """Compare several evaluations on one page; its frames are chosen by the first folder's first tracker."""
    from cmdtrack_ros.evaluation import runner
    from cmdtrack_ros.evaluation.report import write_report
    from cmdtrack_ros.evaluation.scoring import text_table

    scores, sequences = runner.reload(evaluations)
    write_report(output, scores, sequences, "Comparison of " + ", ".join(f.resolve().name for f in evaluations))
    typer.echo(text_table(scores))
    typer.echo(f"report: {output}")


def evaluate_bag(
    bag: Annotated[list[Path], typer.Argument(help="rosbag2 recordings (MCAP or sqlite3).")],
    output: Annotated[Path, typer.Option(help="Folder for results, summary.json and report.html.")],
    through_dds: Annotated[
        bool, typer.Option(help="Play through DDS into the running node, instead of offline.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0.01, help="Speed of playing through DDS.")] = 1.0,
    modality: o.ModalityOption = None,
    rgb_topic: o.RgbTopicOption = None,
    aux_topic: o.AuxTopicOption = None,
    truth_topic: o.TruthTopicOption = None,
    truth_file: Annotated[
        Path | None, typer.Option(help="One box a line for each RGB image; default: boxes.txt in the bag's folder.")
    ] = None,
    init_box: o.InitBoxOption = None,
    registration: o.RegistrationOption = "none",
    rgb_camera_info: o.RgbCameraInfoOption = None,
    aux_camera_info: o.AuxCameraInfoOption = None,
    event_window: o.EventWindowOption = 0.0,
    pairing: o.PairingOption = o.PAIRING.pairing,
    slop: o.SlopOption = o.PAIRING.slop,
    latest_gap: o.LatestGapOption = o.PAIRING.latest_gap,
    aux_offset: o.AuxOffsetOption = o.PAIRING.aux_offset,
    weights: o.WeightsOption = None,
    device: o.DeviceOption = "cpu",
) -> None:
    """Track recordings with the node's own pairing and tracker; boxes, pairing, latency and a report."""
    from cmdtrack_ros.data.bags import BagOptions
    from cmdtrack_ros.evaluation.replay import ReplayOptions, evaluate_bags, replay_offline
    from cmdtrack_ros.evaluation.runner import SUMMARY, write_summary

    rule = PairOptions(slop=slop, aux_offset=aux_offset, pairing=pairing, latest_gap=latest_gap)
    box = None if init_box is None else parse_box(init_box)
    topics = BagOptions(
        rgb_topic,
        aux_topic,
        truth_topic,
        truth_file,
        modality,
        rule,
        read_registration(registration),
        rgb_camera_info,
        aux_camera_info,
        event_window,
    )
    options = ReplayOptions(topics, box, weights, device)
    output.mkdir(parents=True, exist_ok=True)

    def replay(path: Path) -> Replay:
        if not through_dds:
            return replay_offline(path, options)
        o.need_rclpy("evaluate-bag --through-dds")
        from cmdtrack_ros.ros.replay.session import replay_through_node

        return replay_through_node(path, options, output / f"{path.name}.node.log", rate)

    scores, sequences, statistics = evaluate_bags(bag, output, replay, options)
    write_summary(output / SUMMARY, [scores], {"bags": statistics})
    for name, values in statistics.items():
        typer.echo(f"{name}: {values['answered']} of {values['frames']} frames answered")
        for key in ("gap_ms", "processing_ms", "latency_ms"):
            if values[key]:
                typer.echo(f"  {key:14}" + ", ".join(f"{p} {v:.1f}" for p, v in values[key].items()))
    title = "Recordings " + ", ".join(path.resolve().name for path in bag)
    _finish([scores], sequences, output, title, statistics)


def _opened(dataset: Path, layout: str) -> tuple[list[ImageSequence], dict[str, str]]:
    """The sequences of a folder; those that cannot be read are said, and returned with the reason."""
    from cmdtrack_ros.evaluation import runner

    entries, broken = runner.open_dataset(dataset, layout, Protocol.OPE)
    for name, reason in broken.items():
        typer.echo(f"FAILED {name}: {reason}", err=True)
    return [entry.sequence for entry in entries], broken


def blackout(
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="The JSON file to write.")],
    weights: o.WeightsOption = None,
    device: o.DeviceOption = "cpu",
    layout: o.LayoutOption = "auto",
) -> None:
    """Turn one camera black half way through each sequence, and see how well the other one goes on."""
    from cmdtrack_ros.evaluation.blackout import blackouts

    sequences, broken = _opened(dataset, layout)
    files = () if weights is None else (weights,)
    blackouts(sequences, files, device, output, typer.echo)
    if broken:
        raise typer.Exit(1)


def evaluate_pose(
    dataset: Dataset,
    camera: Annotated[str, typer.Option(help="fx,fy,cx,cy of the RGB camera, px: focal lengths and principal point.")],
    weights: o.WeightsOption = None,
    device: o.DeviceOption = "cpu",
    layout: o.LayoutOption = "auto",
) -> None:
    """How far the position in space is off, on RGB-D sequences, beside simpler ways to read the depth of a box."""
    from cmdtrack_ros.evaluation.pose import evaluate_poses, parse_camera

    matrix = parse_camera(camera)
    sequences, broken = _opened(dataset, layout)
    evaluate_poses(sequences, matrix, () if weights is None else (weights,), device, typer.echo)
    if broken:
        raise typer.Exit(1)


def evaluate_confidence(
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="Folder for confidence.json and reliability.png.")],
    only: Annotated[Path | None, typer.Option(help="File with the names of the sequences to take, one a line.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Calibrate the score on these sequences, into a file beside the weights.")
    ] = False,
    prior: Annotated[
        Path | None, typer.Option(help="With --fit: weights whose calibration counts as if seen here, too.")
    ] = None,
    weights: o.WeightsOption = None,
    device: o.DeviceOption = "cpu",
    layout: o.LayoutOption = "auto",
) -> None:
    """Whether the tracker's score and state can be trusted: targets that leave, are covered, or never were there."""
    from cmdtrack_ros.evaluation import confidence
    from cmdtrack_ros.evaluation.baselines import TrackerSpec, make_tracker

    if prior is not None and not fit:
        raise typer.BadParameter("a prior is for a fit: give --fit, too", param_hint="--prior")
    known = None if prior is None else confidence.read_prior(prior)
    sequences, broken = _opened(dataset, layout)
    spec = TrackerSpec("ours", weights=() if weights is None else (weights,), device=device)
    sequences = confidence.chosen(sequences, only)
    outcomes = confidence.evaluate_confidence(
        sequences, lambda modality: make_tracker(spec, modality), output, typer.echo
    )
    if fit:
        typer.echo(f"calibration: {confidence.write_fit(outcomes, weights, known)}")
    if broken:
        raise typer.Exit(1)


def _finish(
    scores: list[Scores],
    sequences: dict[str, ImageSequence],
    output: Path,
    title: str,
    recordings: dict[str, dict] | None = None,
) -> None:
    from cmdtrack_ros.evaluation.report import write_report
    from cmdtrack_ros.evaluation.scoring import text_table

    if any(score.sequences for score in scores):
        write_report(output / "report.html", scores, sequences, title, recordings)
        typer.echo(text_table(scores))
        typer.echo(f"report: {output / 'report.html'}")
    failed = [f"{score.tracker} on {name}: {reason}" for score in scores for name, reason in score.failures.items()]
    for line in failed:
        typer.echo(f"FAILED {line}", err=True)
    if failed:
        raise typer.Exit(1)
