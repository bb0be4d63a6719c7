from kfp import dsl

from kfp_vision import parameters
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


@with_choices({"network": parameters.CHOICES["network"]})
@dsl.pipeline(name="image-search", pipeline_config=RUN)
def image_search(
    images_uri: str = FLOWERS,
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
):
    """An index of pictures, in which those that are alike are found; what it finds for some pictures, and what it tells of all.

    Args:
        images_uri: the pictures: a folder, an archive of one (also over http), an import file, or sample.
        model_uri: a run's model folder or a model repository, whose model says what is alike; empty for network.
        network: which, where model_uri is empty: inception_v1, googlenet, or one of keras.applications.
        checkpoint_uri: its weights: a TF-Slim checkpoint, an .npz, a .keras file, or imagenet.
        index_uri: an index from before, of which the pictures that it has already are not computed again; empty for none.
        queries_uri: pictures to search for: one, a folder, an archive, or sample; empty for none.
        nearest: how many pictures are wanted of each.
        label: of the pictures that alone count in the search; empty for all.
        audit: look for copies and for labels that may be wrong, and draw a map.
        validation_ratio: share of each class that a training would hold out while training.
        test_ratio: share of each class that it would hold out for the last evaluation.
        deploy_to: where the model of model_uri lies, in a bucket or not, for its servers to search in the index; or none.
        partitions: on how many machines the pictures are indexed at a time.
    """
    fields = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_search(**fields))
        fingerprint = fingerprinted(fields, behind=checked)
        fetched = fetch_embedder(model_uri=model_uri, network=network, checkpoint_uri=checkpoint_uri).after(checked)
        model = fetched.outputs["model"]
        listed = list_images(fingerprint=fingerprint, images_uri=images_uri, partitions=partitions)
        with named(dsl.ParallelFor(listed.outputs["Output"], name="partitions")) as partition:
            how = {"index_uri": index_uri, "partition": partition, "partitions": partitions}
            part = index_images(model=model, images=listed.outputs["images"], **how)
        indexed = join_index(parts=dsl.Collected(part.outputs["part"]), model=model)
        equipped(fetched, listed, part, indexed)
        with named(dsl.If(queries_uri != "", name="search")):
            equipped(search_images(index=indexed.outputs["index"], queries_uri=queries_uri, nearest=nearest, label=label))
        with named(dsl.If(audit == True, name="audit")):  # noqa: E712
            ratios = {"validation_ratio": validation_ratio, "test_ratio": test_ratio}
            equipped(audit_images(index=indexed.outputs["index"], **ratios))
        with named(dsl.If(deploy_to != "none", name="deploy")):
            equipped(deploy_index(index=indexed.outputs["index"], deploy_to=deploy_to))
