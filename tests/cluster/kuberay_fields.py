"""Field names of KubeRay's `ray.io/v1` objects, as published.

Source: "KubeRay CRD API reference" of KubeRay v1.6.2,
https://docs.ray.io/en/master/cluster/kubernetes/references/api.html, made from
https://github.com/ray-project/kuberay/blob/0a9eabde561ab59ab4bbe626072c359da9214484/docs/reference/api.md.
The types that our objects use, complete; pod templates, which Kubernetes' own schemas describe, are marked `POD`.
"""

from __future__ import annotations

from typing import Any

POD = "PodTemplateSpec"
ANY = None  # a scalar, a map of strings, or a core type that we do not use
OBJECT = {"apiVersion": ANY, "kind": ANY, "metadata": ANY}

AUTH_OPTIONS = {"enableK8sTokenAuth": ANY, "secretName": ANY, "mode": {"disabled", "token"}}
AUTOSCALER_OPTIONS = {
    "resources": ANY,
    "image": ANY,
    "imagePullPolicy": ANY,
    "securityContext": ANY,
    "idleTimeoutSeconds": ANY,
    "upscalingMode": {"Default", "Aggressive", "Conservative"},
    "version": {"v1", "v2"},
    "env": ANY,
    "envFrom": ANY,
    "volumeMounts": ANY,
}
HEAD_GROUP_SPEC = {
    "template": POD,
    "headService": ANY,
    "enableIngress": ANY,
    "resources": ANY,
    "labels": ANY,
    "rayStartParams": ANY,
    "serviceType": ANY,
}
WORKER_GROUP_SPEC = {
    "suspend": ANY,
    "groupName": ANY,
    "replicas": ANY,
    "minReplicas": ANY,
    "maxReplicas": ANY,
    "idleTimeoutSeconds": ANY,
    "resources": ANY,
    "labels": ANY,
    "rayStartParams": ANY,
    "template": POD,
    "scaleStrategy": {"workersToDelete": ANY},
    "numOfHosts": ANY,
}
RAY_CLUSTER_SPEC: dict[str, Any] = {
    "upgradeStrategy": {"type": {"Recreate", "None"}},
    "authOptions": AUTH_OPTIONS,
    "suspend": ANY,
    "managedBy": ANY,
    "autoscalerOptions": AUTOSCALER_OPTIONS,
    "headServiceAnnotations": ANY,
    "enableInTreeAutoscaling": ANY,
    "gcsFaultToleranceOptions": ANY,
    "headGroupSpec": HEAD_GROUP_SPEC,
    "rayVersion": ANY,
    "workerGroupSpecs": [WORKER_GROUP_SPEC],
}
RAY_JOB_SPEC: dict[str, Any] = {
    "activeDeadlineSeconds": ANY,
    "backoffLimit": ANY,
    "rayClusterSpec": RAY_CLUSTER_SPEC,
    "submitterPodTemplate": POD,
    "metadata": ANY,
    "clusterSelector": ANY,
    "submitterConfig": {"backoffLimit": ANY},
    "managedBy": ANY,
    "deletionStrategy": ANY,
    "entrypoint": ANY,
    "runtimeEnvYAML": ANY,
    "jobId": ANY,
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    "entrypointResources": ANY,
    "entrypointNumCpus": ANY,
    "entrypointNumGpus": ANY,
    "ttlSecondsAfterFinished": ANY,
    "preRunningDeadlineSeconds": ANY,
    "shutdownAfterJobFinishes": ANY,
    "suspend": ANY,
}
KINDS: dict[str, Any] = {"RayCluster": OBJECT | {"spec": RAY_CLUSTER_SPEC}, "RayJob": OBJECT | {"spec": RAY_JOB_SPEC}}
