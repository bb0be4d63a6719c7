"""Asks the Kubernetes API for the jobs that train with several workers, their pods, logs and events."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from kfp_vision.core import json_text, kube_config
from kfp_vision.core.errors import AccessError, InputError, NotFoundError, UnreachableError, format_value
from kfp_vision.training import tf_config, train_job
from kfp_vision.training.train_job import TF_JOB, TRAIN_JOB, Stage

STAGE_CONTAINER = "main"
RUN_LABEL, NODE_ANNOTATION = "pipeline/runid", "workflows.argoproj.io/node-name"
RETRY_SUFFIX = re.compile(r"\(\d+\)$")  # of an Argo node that is tried again
APPLY = "Apply the roles: kubectl apply -n {namespace} -k manifests/base."
INSTALL = {
    TRAIN_JOB: "Install Kubeflow Trainer, set training_api of advanced to tfjob, or workers to 1.",
    TF_JOB: "Install Kubeflow's training operator, set training_api of advanced to trainjob, or workers to 1.",
}
# What the stage does: (API group, resource, verb).
TRAIN_JOB_RIGHTS = (
    *(("trainer.kubeflow.org", "trainjobs", verb) for verb in ("create", "get", "delete")),
    ("trainer.kubeflow.org", "trainingruntimes", "get"),
    ("jobset.x-k8s.io", "jobsets", "get"),
    ("batch", "jobs", "get"),
)
TF_JOB_RIGHTS = tuple(("kubeflow.org", "tfjobs", verb) for verb in ("create", "get", "delete"))
POD_RIGHTS = (("", "pods", "get"), ("", "pods", "list"), ("", "pods/log", "get"), ("", "events", "list"))


class JobClient:
    """The jobs of one kind in the namespace of this process.

    Args:
        api: value of `training_api`.

    Raises:
        InputError: there is no cluster configuration.
    """

    def __init__(self, api: str):
        try:
            configuration, self.namespace = kube_config.load_configuration()
        except (config.ConfigException, OSError) as error:
            raise InputError("workers above 1 must run in a cluster", str(error), "Set workers to 1.") from None
        self.api = api
        self._client = client.ApiClient(configuration)
        self._group, self._plural = (
            (train_job.TRAINER_API, "trainjobs") if api == TRAIN_JOB else (train_job.TF_JOB_API, "tfjobs")
        )

    def stage(self) -> Stage:
        """Reads this stage's own pod.

        Raises:
            InputError: it cannot be read.
        """
        pod = self._get(f"api/v1/namespaces/{self.namespace}/pods/{os.environ[kube_config.STAGE_VARIABLE]}") or {}
        if not pod:
            raise InputError("the pod of a stage must be known", os.environ[kube_config.STAGE_VARIABLE], "Start the run again.")
        metadata = pod["metadata"]
        image = next(one["image"] for one in pod["spec"]["containers"] if one["name"] == STAGE_CONTAINER)
        owner: dict[str, Any] = next((one for one in metadata.get("ownerReferences") or () if one["kind"] == "Workflow"), {})
        kept: dict[str, Any] = {name: owner[name] for name in ("apiVersion", "kind", "name", "uid") if name in owner}
        node = RETRY_SUFFIX.sub("", (metadata.get("annotations") or {}).get(NODE_ANNOTATION, metadata["name"]))
        return Stage(self.namespace, image, f"{(metadata.get('labels') or {}).get(RUN_LABEL, '')}/{node}", kept)

    def create(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """Creates a job.

        Args:
            wanted: from `train_job.manifest`.

        Returns:
            The job; None if there is one of that name.

        Raises:
            InputError: an error of the cluster.
        """
        try:
            return self._request("POST", self._jobs(), wanted, [("fieldValidation", "Strict"), ("fieldManager", "kfp-vision")])
        except ApiException as error:
            if error.status == 409 and "AlreadyExists" in str(error.body):
                return None
            raise self._readable(error) from None

    def job(self, name: str) -> dict[str, Any] | None:
        """Returns a job; None if there is none of that name."""
        return self._get(f"{self._jobs()}/{name}")

    def jobset(self, name: str) -> dict[str, Any] | None:
        """Returns the JobSet of a TrainJob; None if there is none."""
        return (
            self._get(f"{train_job.JOBSET_API}/namespaces/{self.namespace}/jobsets/{name}") if self.api == TRAIN_JOB else None
        )

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Returns the pods of a job."""
        found = self._get(
            f"api/v1/namespaces/{self.namespace}/pods", [("labelSelector", f"{train_job.JOB_LABELS[self.api]}={name}")]
        )
        return list((found or {}).get("items") or ())

    def events(self) -> list[dict[str, Any]]:
        """Returns the warnings in the namespace."""
        found = self._get(f"api/v1/namespaces/{self.namespace}/events", [("fieldSelector", "type=Warning")])
        return list((found or {}).get("items") or ())

    def failed_job_message(self, name: str) -> str:
        """Returns what the Job of a TrainJob's workers says of its failure, such as which rule matched; may be empty."""
        if self.api == TF_JOB:
            return ""
        job = self._get(f"apis/batch/v1/namespaces/{self.namespace}/jobs/{name}-{tf_config.REPLICATED_JOB}-0") or {}
        return str(train_job.conditions(job).get(train_job.FAILED, {}).get("message", ""))

    def delete(self, name: str) -> None:
        """Deletes a job, in the background: foreground deletion makes Trainer create its JobSet again meanwhile.

        Args:
            name: of the job; nothing happens if there is none.
        """
        try:
            self._request(
                "DELETE",
                f"{self._jobs()}/{name}",
                {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"},
            )
        except ApiException as error:
            if error.status != 404:
                raise self._readable(error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(error) from None

    def log(self, pod: str) -> Iterator[str]:
        """Follows the log of a pod: lines with their times, until it ends or the connection breaks.

        Args:
            pod: its name.

        Yields:
            `TIME LINE`, as Kubernetes writes them.
        """
        query = [("container", train_job.CONTAINERS[self.api]), ("follow", "true"), ("timestamps", "true")]
        try:
            answer = self._call("GET", f"api/v1/namespaces/{self.namespace}/pods/{pod}/log", None, query, read_seconds=None)
            rest = b""
            for chunk in answer.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")
        except (ApiException, urllib3.exceptions.HTTPError, OSError):
            return  # the pod is gone, or the connection: the caller looks again

    def check(self, runtime: str) -> None:
        """Checks that the cluster has the API, and that this account may use it.

        Args:
            runtime: name of the TrainingRuntime.

        Raises:
            InputError: it has not, or may not.
        """
        kind = "Kubeflow Trainer" if self.api == TRAIN_JOB else "Kubeflow's training operator"
        version = self._group.removeprefix("apis/")
        resources = {one["name"] for one in (self._get(self._group) or {}).get("resources") or ()}
        if self._plural not in resources:
            rule = f"the cluster must have {kind}, to train with several workers"
            raise NotFoundError(rule, f"no {self._plural} in {version}", INSTALL[self.api])
        rights = (*(TRAIN_JOB_RIGHTS if self.api == TRAIN_JOB else TF_JOB_RIGHTS), *POD_RIGHTS)
        if missing := [f"{verb} {resource}" for group, resource, verb in rights if not self._may(group, resource, verb)]:
            rule = f"the stages must be allowed to train with several workers in {self.namespace}"
            raise AccessError(rule, f"no right to {', '.join(missing)}", APPLY.format(namespace=self.namespace))
        if self.api == TRAIN_JOB and self._get(f"{self._group}/namespaces/{self.namespace}/trainingruntimes/{runtime}") is None:
            remedy = f"Apply it: kubectl apply -n {self.namespace} -k manifests/training."
            raise NotFoundError("training_runtime of advanced must name a TrainingRuntime of the namespace", runtime, remedy)

    def _may(self, group: str, resource: str, verb: str) -> bool:
        name, _, part = resource.partition("/")
        asked = {"namespace": self.namespace, "group": group, "resource": name, "subresource": part, "verb": verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        try:
            answer = self._request("POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        except ApiException as error:
            raise self._readable(error) from None
        return bool((answer.get("status") or {}).get("allowed"))

    def _jobs(self) -> str:
        return f"{self._group}/namespaces/{self.namespace}/{self._plural}"

    def _get(self, path: str, query: list[tuple[str, str]] | None = None) -> dict[str, Any] | None:
        try:
            return self._request("GET", path, None, query)
        except ApiException as error:
            if error.status == 404:
                return None
            raise self._readable(error) from None

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: list[tuple[str, str]] | None = None
    ) -> dict[str, Any]:
        content = self._call(method, path, body, query).data or b"{}"
        try:
            answer = json_text.parse(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):  # the page of a proxy in between, for example, whose server is away
            found = format_value(content.decode(errors="replace"), 400)
            raise UnreachableError(
                "the cluster must answer with a JSON object", found, "Check the network, and what is in between."
            )
        return answer

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: list[tuple[str, str]] | None = None,
        read_seconds: float | None = kube_config.READ_SECONDS,
    ) -> Any:
        try:
            return self._client.call_api(
                f"/{path}",
                method,
                query_params=query or [],
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=(kube_config.CONNECT_SECONDS, read_seconds),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(error) from None

    def _readable(self, error: ApiException) -> InputError:
        """Turns the client's exception into an error of one line."""
        try:
            message = str(json_text.parse(error.body)["message"])
        except (TypeError, ValueError, KeyError):  # of a proxy in between, for example
            body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
            message = str(body or error.reason or "no reason")
        found = f"HTTP {error.status} in {self.namespace} ({format_value(message, 400)})"
        if error.status == 401 or (error.status == 403 and " cannot " in message):
            return AccessError(
                "the stages must be allowed to train with several workers", found, APPLY.format(namespace=self.namespace)
            )
        if error.status == 429 or (error.status or 0) >= 500:
            return UnreachableError("the cluster must answer", found, "Try again.")
        remedy = "Change what it names, or ask the cluster's administrator."
        kind = AccessError if error.status == 403 else InputError  # of a quota or a proxy, for example
        return kind(f"the cluster must accept the {self._plural} of the training", found, remedy)


def _unreachable(error: Exception) -> UnreachableError:
    reason = type(getattr(error, "reason", None) or error).__name__
    return UnreachableError("the cluster must answer", reason, "Check the network, and the cluster's configuration.")
