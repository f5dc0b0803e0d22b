"""What users of the Python client do: typed API, dynamic client, watches, custom resources. Ends with an error when
an answer is not what upstream's API server gives."""

import base64
import json
import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError

DEADLINE = 60


def eventually(what, check):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"did not happen in {DEADLINE} s: {what}")


def refused(code, call):
    try:
        call()
    except ApiException as error:
        assert error.status == code, f"{error.status} instead of {code}: {error.body}"
        return error
    raise AssertionError(f"was not refused with {code}")


def typed(core, apps):
    core.create_namespace({"metadata": {"name": "py"}})
    refused(409, lambda: core.create_namespace({"metadata": {"name": "py"}}))
    seen = []
    ready = threading.Event()

    def follow():
        stream = watch.Watch()
        first = core.list_namespaced_config_map("py")
        ready.set()
        events = stream.stream(
            core.list_namespaced_config_map, "py", resource_version=first.metadata.resource_version, timeout_seconds=DEADLINE
        )
        for event in events:
            if event["object"].metadata.name == "a":
                seen.append((event["type"], (event["object"].data or {}).get("k")))
            if event["type"] == "DELETED":
                stream.stop()

    follower = threading.Thread(target=follow)
    follower.start()
    assert ready.wait(DEADLINE)
    made = core.create_namespaced_config_map("py", {"metadata": {"name": "a"}, "data": {"k": "1"}})
    made.data["k"] = "2"
    core.replace_namespaced_config_map("a", "py", made)
    made.data["k"] = "3"
    refused(409, lambda: core.replace_namespaced_config_map("a", "py", made))
    patched = core.patch_namespaced_config_map("a", "py", {"data": {"k": "4"}})
    assert patched.data == {"k": "4"}, patched.data
    listed = core.patch_namespaced_config_map("a", "py", [{"op": "test", "path": "/data/k", "value": "4"}])
    assert listed.metadata.resource_version == patched.metadata.resource_version
    core.delete_namespaced_config_map("a", "py")
    follower.join(DEADLINE)
    assert seen == [("ADDED", "1"), ("MODIFIED", "2"), ("MODIFIED", "4"), ("DELETED", "4")], seen

    core.create_namespaced_secret("py", {"metadata": {"name": "s"}, "stringData": {"p": "x"}})
    assert base64.b64decode(core.read_namespaced_secret("s", "py").data["p"]) == b"x"
    labels = {"app": "web"}
    container = {"name": "c", "image": "trierarch.local/busybox:1"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    apps.create_namespaced_deployment("py", {"metadata": {"name": "web"}, "spec": spec})
    status = lambda: apps.read_namespaced_deployment_status("web", "py").status.ready_replicas
    eventually("two replicas", lambda: status() == 2)
    apps.patch_namespaced_deployment_scale("web", "py", {"spec": {"replicas": 3}})
    eventually("three replicas", lambda: status() == 3)
    pods = core.list_namespaced_pod("py", label_selector="app=web", limit=2)
    assert len(pods.items) == 2 and pods.metadata._continue, pods.metadata
    rest = core.list_namespaced_pod("py", label_selector="app=web", limit=2, _continue=pods.metadata._continue)
    assert len(rest.items) == 1
    refused(422, lambda: core.create_namespaced_config_map("py", {"metadata": {"name": "No"}}))
    refused(404, lambda: core.read_namespaced_pod("none", "py"))


def applied(api):
    resources = dynamic.DynamicClient(api)
    maps = resources.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "1"}}
    maps.server_side_apply(namespace="py", name="b", body=body, field_manager="one")
    try:
        body["data"] = {"k": "2"}
        maps.server_side_apply(namespace="py", name="b", body=body, field_manager="two")
        raise AssertionError("a field of another manager was taken")
    except ConflictError as error:
        assert 'conflict with "one"' in json.loads(error.body)["message"], error.body
    taken = maps.server_side_apply(namespace="py", name="b", body=body, field_manager="two", force_conflicts=True)
    assert taken.data.k == "2"
    try:
        maps.get(namespace="py", name="none")
        raise AssertionError("what is not there was found")
    except NotFoundError:
        pass


def custom(api):
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.py.example.com"},
        "spec": {
            "group": "py.example.com",
            "scope": "Namespaced",
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"},
            "versions": [{
                "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1, "default": 2}}},
                    "status": {"type": "object", "properties": {"done": {"type": "boolean"}}}}}},
            }],
        },
    }
    utils.create_from_dict(api, definition)
    objects = client.CustomObjectsApi(api)
    path = ("py.example.com", "v1", "py", "gadgets")
    gadget = lambda name, spec: {"apiVersion": "py.example.com/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec}

    def established():
        try:
            return objects.create_namespaced_custom_object(*path, gadget("a", {}))
        except ApiException as error:
            assert error.status == 404, error
            return None

    made = eventually("the kind is served", established)
    assert made["spec"] == {"size": 2}, made
    refused(422, lambda: objects.create_namespaced_custom_object(*path, gadget("b", {"size": 0})))
    objects.patch_namespaced_custom_object_status(*path, "a", {"status": {"done": True}})
    assert objects.get_namespaced_custom_object(*path, "a")["status"] == {"done": True}
    kind = dynamic.DynamicClient(api).resources.get(api_version="py.example.com/v1", kind="Gadget")
    assert [item.metadata.name for item in kind.get(namespace="py").items] == ["a"]
    client.ApiextensionsV1Api(api).delete_custom_resource_definition("gadgets.py.example.com")
    gone = lambda: refused(404, lambda: objects.list_namespaced_custom_object(*path)) is not None
    eventually("the kind is gone", lambda: quietly(gone))


def quietly(check):
    try:
        return check()
    except AssertionError:
        return False


def main():
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    version = client.VersionApi(api).get_code()
    assert version.major == "1" and version.minor.startswith("37"), version
    assert "apps/v1" in [g.preferred_version.group_version for g in client.ApisApi(api).get_api_versions().groups]
    typed(core, apps)
    applied(api)
    custom(api)
    token = core.create_namespaced_service_account_token("default", "py", {"spec": {"expirationSeconds": 600}})
    assert token.status.token.count(".") == 2
    core.delete_namespace("py")
    eventually("the namespace is gone", lambda: quietly(lambda: refused(404, lambda: core.read_namespace("py")) is not None))
    print("everything held")


main()
