from kfp import dsl

from kfp_vision.components import check_review, fetch_model
from kfp_vision.components import review_images as choose
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.pods import RUN, equipped


@with_choices({})
@dsl.pipeline(name="review", pipeline_config=RUN)
def review(
    model_uri: str = "",
    images_uri: str = "",
    collected_uri: str = "",
    labels_uri: str = "",
    review_images: int = 100,
    advanced: dict = {},  # noqa: B006
) -> None:
    """Chooses the images most worth a label, from any folder or from what a server has collected.

    Args:
        model_uri: model in use: a run's model folder, a repository, or an archive of one; local, in a bucket or registered.
        images_uri: images without labels: a folder, archive (also over HTTP), or sample; empty for those that were collected.
        collected_uri: collection of a server's answers, with images; empty for none.
        labels_uri: list of the labels given so far, whose images are not chosen again; empty for none.
        review_images: number of images to choose at most.
        advanced: settings of reading; see docs/reference/fields.md.
    """
    fields = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_review(**fields))
        fetched = equipped(fetch_model(model_uri=model_uri, advanced=advanced).after(checked))
        given = {name: value for name, value in fields.items() if name != "model_uri"}
        equipped(choose(model=fetched.outputs["model"], **given))
