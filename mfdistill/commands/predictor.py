"""The predictor that --predictor names, and the one of a run that is repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mfdistill.commands.same import same_features
from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.networks.predictor import Predictor
    from mfdistill.tasks import TaskConfig


def open_predictor(path: str, config: TaskConfig) -> Predictor:
    """A regression network as the predictor in front of a flow of task ``config``, or the predictor
    of a model that has one.

    Raises:
        UserError: nothing there, neither of the two, a regression network behind a predictor of its
            own, other features than the flow's, or a network that sees later frames where the flow
            does not.
    """
    from mfdistill.distill.opening import open_audio_model
    from mfdistill.networks.predictor import Predictor
    from mfdistill.search.cache import digest_tensors

    model, what = open_audio_model(path), f"--predictor {path}"
    found: Any = model.task.predictor
    if model.role == "regression":
        if found is not None:
            raise UserError(
                f"{what}: has a predictor in front of it; name a regression network that stands alone"
            )
        about = {"source": path, "sha256": digest_tensors(model.module.state_dict())}
        found = Predictor(
            model.module,
            {
                "network": model.config["network"],
                "prior_mean": model.task.config.prior_mean,
                **about,
            },
        )
    if found is None:
        raise UserError(
            f"{what}: holds a {model.role}, not a regression network; train one with teacher-train --objective regression"
        )
    if config.stft.causal and not (model.task.config.stft.causal and found.causal):
        raise UserError(
            f"{what}: sees later frames, and this model must not; name a regression network that was trained with --causal"
        )
    same_features(config, model.task.config, what)
    return found
