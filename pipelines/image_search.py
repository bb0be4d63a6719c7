from kfp import dsl

from kfp_vision.components import (
    audit_images,
    check_search,
    deploy_index,
    fetch_embedder,
    index_images,
    join_index,
    list_images,
    search_images,
)
from kfp_vision.networks import NETWORKS
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.image_classification import FLOWERS
from kfp_vision.pipelines.pods import RUN, equipped
from kfp_vision.pipelines.preparation import fingerprinted
from kfp_vision.preflight import rules


@with_choices(rules.SEARCH_CHOICES)
@dsl.pipeline(name="image-search", pipeline_config=RUN)
def image_search(
    images_uri: str = FLOWERS,
    labels: str = "one",
    model_uri: str = "",
    network: str = "inception_v1",
    checkpoint_uri: str = NETWORKS["inception_v1"].imagenet,
    index_uri: str = "",
    queries_uri: str = "",
    nearest: int = 10,
    label: str = "",
    audit: bool = True,
    validation_ratio: float = 0.2,
    test_ratio: float = 0.0,
    deploy_to: str = "none",
    partitions: int = 1,
    advanced: dict = {},  # noqa: B006
) -> None:
    """Builds a similarity index of images, searches it, and audits it for near-duplicates and label issues.

    Args:
        images_uri: images to index: a folder, archive of one (also over HTTP), import file, or sample.
        labels: one, or several for images with any number of labels.
        model_uri: model that computes the embeddings: a run's model folder or a model repository; empty to use network.
        network: such as inception_v1, efficientnet_lite0 or resnet50; used if model_uri is empty.
        checkpoint_uri: weights of the network: a TF-Slim checkpoint, .npz, .pth or .keras file, or imagenet.
        index_uri: earlier index whose embeddings are reused for images that it already contains; empty for none.
        queries_uri: query images: an image, folder, archive, or sample; empty for none.
        nearest: number of results per query image.
        label: search images with this label only; empty for all.
        audit: find near-duplicates and label issues, and draw a map of the images.
        validation_ratio: share of each class that a training would hold out for validation, from 0 to 1.
        test_ratio: share of each class that a training would hold out for the final test, from 0 to 1.
        deploy_to: deployed model of model_uri, local or in a bucket, whose servers shall search the index; none for nowhere.
        partitions: number of machines that compute embeddings in parallel.
        advanced: advanced settings of the data; see docs/reference/fields.md.
    """
    fields = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_search(**fields))
        fingerprint = fingerprinted(fields, after=checked)
        embedder = {"model_uri": model_uri, "network": network, "checkpoint_uri": checkpoint_uri, "advanced": advanced}
        fetched = fetch_embedder(**embedder).after(checked)
        model = fetched.outputs["model"]
        data = {"images_uri": images_uri, "labels": labels, "partitions": partitions, "advanced": advanced}
        listed = list_images(fingerprint=fingerprint, **data)
        with named(dsl.ParallelFor(listed.outputs["Output"], name="partitions")) as partition:
            inputs = {"index_uri": index_uri, "partition": partition, "partitions": partitions, "advanced": advanced}
            part = index_images(model=model, images=listed.outputs["images"], **inputs)
        indexed = join_index(parts=dsl.Collected(part.outputs["part"]), model=model)
        equipped(fetched, listed, part, indexed)
        with named(dsl.If(queries_uri != "", name="search")):
            wanted = {"queries_uri": queries_uri, "nearest": nearest, "label": label, "advanced": advanced}
            equipped(search_images(index=indexed.outputs["index"], **wanted))
        with named(dsl.If(audit == True, name="audit")):  # noqa: E712
            ratios = {"validation_ratio": validation_ratio, "test_ratio": test_ratio}
            equipped(audit_images(index=indexed.outputs["index"], **ratios))
        with named(dsl.If(deploy_to != "none", name="deploy")):
            equipped(deploy_index(index=indexed.outputs["index"], deploy_to=deploy_to, advanced=advanced))
