//! `kthena create manifest`, the program, beside a running operator: templates become pods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use controller_api::http_route::HttpRoute;
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::core::v1::{EnvVar, Pod, Service};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use tests::{own_binary, poll};
use tokio::sync::OnceCell;

use crate::attachment::{create, create_picker, create_route, create_server, wait_for};
use crate::stage::{SOON, Stage};

/// A command that hangs is a failure.
const DEADLINE: Duration = Duration::from_secs(90);

/// A template, what its objects are called, how many endpoints they come to, and each pod with its command line.
type Story = (&'static str, &'static str, i32, &'static [(&'static str, &'static str)]);

/// As the templates are without any value.
const STORIES: &[Story] = &[
    (
        "leader-worker-set",
        "set",
        1,
        &[
            (
                "set-0-default-0-0",
                "vllm serve Qwen/Qwen3-235B-A22B --port=8000 --tensor-parallel-size=8 --pipeline-parallel-size=2 \
                 --nnodes=2 --node-rank=0 --master-addr=set-0-default-0-0.NAMESPACE",
            ),
            (
                "set-0-default-0-1",
                "vllm serve Qwen/Qwen3-235B-A22B --headless --tensor-parallel-size=8 --pipeline-parallel-size=2 \
                 --nnodes=2 --node-rank=1 --master-addr=set-0-default-0-0.NAMESPACE",
            ),
        ],
    ),
    (
        "sglang",
        "sg",
        1,
        &[(
            "sg-0-engine-0-0",
            "python3 -m sglang.launch_server --model-path=Qwen/Qwen3-8B --host=0.0.0.0 --port=30000 --tp-size=1 \
             --enable-metrics",
        )],
    ),
    (
        "sglang-prefill-decode",
        "sgpd",
        1,
        &[
            (
                "sgpd-0-prefill-0-0",
                "python3 -m sglang.launch_server --model-path=Qwen/Qwen3-8B --host=0.0.0.0 --port=30000 --tp-size=1 \
                 --enable-metrics --disaggregation-mode=prefill --disaggregation-transfer-backend=nixl \
                 --disaggregation-bootstrap-port=8998",
            ),
            (
                "sgpd-0-decode-0-0",
                "python3 -m sglang.launch_server --model-path=Qwen/Qwen3-8B --host=0.0.0.0 --port=30000 --tp-size=1 \
                 --enable-metrics --disaggregation-mode=decode --disaggregation-transfer-backend=nixl \
                 --disaggregation-bootstrap-port=8998",
            ),
        ],
    ),
    ("vllm", "one", 1, &[("one-0-engine-0-0", "vllm serve Qwen/Qwen3-8B --port=8000 --tensor-parallel-size=1")]),
    (
        "vllm-data-parallel",
        "dp",
        4,
        &[
            (
                "dp-0-rank-0-0",
                "vllm serve Qwen/Qwen3-30B-A3B --port=8000 --tensor-parallel-size=1 --data-parallel-size=4 \
                 --data-parallel-rank=0 --data-parallel-address=dp-0-rank-0-0.NAMESPACE --data-parallel-rpc-port=13345",
            ),
            (
                "dp-0-rank-0-1",
                "vllm serve Qwen/Qwen3-30B-A3B --port=8000 --tensor-parallel-size=1 --data-parallel-size=4 \
                 --data-parallel-rank=1 --data-parallel-address=dp-0-rank-0-0.NAMESPACE --data-parallel-rpc-port=13345",
            ),
            (
                "dp-0-rank-0-2",
                "vllm serve Qwen/Qwen3-30B-A3B --port=8000 --tensor-parallel-size=1 --data-parallel-size=4 \
                 --data-parallel-rank=2 --data-parallel-address=dp-0-rank-0-0.NAMESPACE --data-parallel-rpc-port=13345",
            ),
            (
                "dp-0-rank-0-3",
                "vllm serve Qwen/Qwen3-30B-A3B --port=8000 --tensor-parallel-size=1 --data-parallel-size=4 \
                 --data-parallel-rank=3 --data-parallel-address=dp-0-rank-0-0.NAMESPACE --data-parallel-rpc-port=13345",
            ),
        ],
    ),
    (
        "vllm-expert-parallel",
        "ep",
        1,
        &[
            (
                "ep-0-node-0-0",
                "sh -c exec vllm serve \"$@\" --data-parallel-size=$((GROUP_SIZE * 8)) vllm deepseek-ai/DeepSeek-V3.1 \
                 --port=8000 --api-server-count=4 --enable-expert-parallel --data-parallel-size-local=8 \
                 --data-parallel-address=ep-0-node-0-0.NAMESPACE --data-parallel-rpc-port=13345",
            ),
            (
                "ep-0-node-0-1",
                "sh -c exec vllm serve \"$@\" --data-parallel-size=$((GROUP_SIZE * 8)) \
                 --data-parallel-start-rank=$((WORKER_INDEX * 8)) vllm deepseek-ai/DeepSeek-V3.1 --headless \
                 --enable-expert-parallel --data-parallel-size-local=8 \
                 --data-parallel-address=ep-0-node-0-0.NAMESPACE --data-parallel-rpc-port=13345",
            ),
        ],
    ),
    (
        "vllm-lora",
        "lora",
        1,
        &[(
            "lora-0-engine-0-0",
            "vllm serve meta-llama/Llama-3.2-3B-Instruct --port=8000 --tensor-parallel-size=1 --enable-lora \
             --max-loras=1 --lora-modules sql=jeeejeee/llama32-3b-text2sql-spider",
        )],
    ),
    (
        "vllm-prefill-decode-lmcache",
        "lmc",
        1,
        &[
            (
                "lmc-0-store-0-0",
                "redis-server --save  --maxmemory 16gb --maxmemory-policy allkeys-lru --protected-mode no",
            ),
            (
                "lmc-0-prefill-0-0",
                "vllm serve Qwen/Qwen3-8B --port=8000 --tensor-parallel-size=1 \
                 --kv-transfer-config={\"kv_connector\":\"LMCacheConnectorV1\",\"kv_role\":\"kv_producer\"} \
                 LMCACHE_REMOTE_URL=redis://lmc-0-store-0-0:6379",
            ),
            (
                "lmc-0-decode-0-0",
                "vllm serve Qwen/Qwen3-8B --port=8000 --tensor-parallel-size=1 \
                 --kv-transfer-config={\"kv_connector\":\"LMCacheConnectorV1\",\"kv_role\":\"kv_consumer\"} \
                 LMCACHE_REMOTE_URL=redis://lmc-0-store-0-0:6379",
            ),
        ],
    ),
    (
        "vllm-prefill-decode-mooncake",
        "moon",
        1,
        &[
            (
                "moon-0-prefill-0-0",
                "vllm serve Qwen/Qwen3-8B --port=8000 --tensor-parallel-size=1 \
                 --kv-transfer-config={\"kv_connector\":\"MooncakeConnector\",\"kv_role\":\"kv_producer\"}",
            ),
            (
                "moon-0-decode-0-0",
                "vllm serve Qwen/Qwen3-8B --port=8000 --tensor-parallel-size=1 \
                 --kv-transfer-config={\"kv_connector\":\"MooncakeConnector\",\"kv_role\":\"kv_consumer\"}",
            ),
        ],
    ),
    (
        "vllm-prefill-decode-nixl",
        "nixl",
        1,
        &[
            (
                "nixl-0-prefill-0-0",
                "vllm serve Qwen/Qwen3-8B --port=8000 --tensor-parallel-size=1 --kv-transfer-config={\"kv_connector\":\
                 \"NixlConnector\",\"kv_role\":\"kv_producer\",\"kv_load_failure_policy\":\"recompute\"}",
            ),
            (
                "nixl-0-decode-0-0",
                "vllm serve Qwen/Qwen3-8B --port=8000 --tensor-parallel-size=1 --kv-transfer-config={\"kv_connector\":\
                 \"NixlConnector\",\"kv_role\":\"kv_consumer\",\"kv_load_failure_policy\":\"recompute\"}",
            ),
        ],
    ),
];

/// Runs the command. Its words must be there, and its exit code must be so.
async fn kthena(kubeconfig: &Path, words: &[&str], code: i32, wanted: &[&str]) -> Result<String> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let binary = BUILT.get_or_try_init(|| own_binary::build("kthena")).await?;
    let run = tokio::process::Command::new(binary)
        .args(words)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, run).await.with_context(|| format!("{words:?} does not end"))??;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
    for word in wanted {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    Ok(text)
}

/// `kthena create manifest` in the stage's namespace.
async fn manifest(stage: &Stage, words: &str, code: i32, wanted: &[&str]) -> Result<String> {
    let words: Vec<&str> =
        ["create", "manifest", "-n", stage.namespace.name()].into_iter().chain(words.split_whitespace()).collect();
    kthena(&stage.proxy.kubeconfig(), &words, code, wanted).await
}

/// What the kubelet starts: command and arguments, and where KV blocks are kept.
fn command(pod: &Pod) -> String {
    let container = &pod.spec.as_ref().expect("a spec").containers[0];
    let mut env = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let value = filled_in(&value_of(pod, variable), &env);
        env.insert(variable.name.as_str(), value);
    }
    let words = container.command.iter().flatten().chain(container.args.iter().flatten());
    let words = words.map(|word| filled_in(word, &env));
    let store = env.get("LMCACHE_REMOTE_URL").map(|url| format!("LMCACHE_REMOTE_URL={url}"));
    words.chain(store).collect::<Vec<_>>().join(" ")
}

/// A variable's value, as far as the pod's object says it.
fn value_of(pod: &Pod, variable: &EnvVar) -> String {
    let source = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
    match source.map(|source| source.field_path.as_str()) {
        Some("metadata.labels['modelserving.volcano.sh/group-name']") => {
            pod.metadata.labels.as_ref().expect("labels")["modelserving.volcano.sh/group-name"].clone()
        }
        Some(_) => "<what the kubelet knows>".to_owned(),
        None => variable.value.clone().unwrap_or_default(),
    }
}

/// As Kubernetes does it: `$(NAME)` is the variable's value, and what is unknown stays as it is.
fn filled_in(word: &str, env: &BTreeMap<&str, String>) -> String {
    env.iter().fold(word.to_owned(), |word, (name, value)| word.replace(&format!("$({name})"), value))
}

/// The headless services whose names pods know lead to the pods of those names.
fn leads_to_its_pod(service: &Service, pods: &BTreeMap<String, Pod>) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let selected = pods.iter().filter(|(_, pod)| {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    });
    selected.map(|(name, _)| Some(name.as_str())).collect::<Vec<_>>() == [service.metadata.name.as_deref()]
}

#[tokio::test]
async fn each_template_becomes_the_pods_that_it_says() -> Result<()> {
    let stage = Stage::new("templates").await?;
    create_picker(&stage.namespace).await?;
    let listed: Value =
        serde_json::from_str(&kthena(&stage.proxy.kubeconfig(), &["get", "templates", "-o", "json"], 0, &[]).await?)?;
    let listed: Vec<&str> = listed.as_array().into_iter().flatten().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(listed, STORIES.iter().map(|story| story.0).collect::<Vec<_>>(), "each template has its story");

    for (template, name, ..) in STORIES {
        let created = [format!("modelserver/{name} created"), format!("kthena rollout status {name} -n")];
        let created: Vec<&str> = created.iter().map(String::as_str).collect();
        manifest(&stage, &format!("-t {template} --name {name} --yes"), 0, &created).await?;
    }
    let wanted: Vec<(&str, &str)> = STORIES.iter().flat_map(|story| story.3).copied().collect();
    stage.wait_pods(&wanted.iter().map(|(name, _)| *name).collect::<Vec<_>>()).await?;
    let pods = stage.pods().await?;
    for (name, expected) in &wanted {
        let command = command(&pods[*name]).replace(stage.namespace.name(), "NAMESPACE");
        assert_eq!(command, *expected, "{name}");
    }

    let services = stage.namespace.api::<Service>().list(&ListParams::default()).await?.items;
    let services: BTreeMap<&str, &Service> =
        services.iter().map(|service| (service.metadata.name.as_deref().unwrap_or_default(), service)).collect();
    for named in ["set-0-default-0-0", "dp-0-rank-0-0", "ep-0-node-0-0", "lmc-0-store-0-0"] {
        let service = services.get(named).with_context(|| format!("there is no service {named}"))?;
        assert!(leads_to_its_pod(service, &pods), "{named} leads elsewhere: {service:?}");
    }
    for (template, name, endpoints, _) in STORIES {
        let servers = stage.namespace.api::<ModelServer>();
        let mut last = None;
        let what = format!("{endpoints} endpoints of {template}");
        let counted = poll::until(&what, SOON, async || {
            last = servers.get(name).await.ok()?.status;
            let ready = last.as_ref().and_then(|status| status.ready_endpoints);
            (ready == Some(*endpoints)).then_some(())
        });
        counted.await.with_context(|| format!("{last:?}; the operator said:\n{}", stage.log()))?;
        let pool: InferencePool = wait_for(&stage, name).await?;
        let route: HttpRoute = wait_for(&stage, name).await?;
        assert_eq!(json!(route.spec)["rules"][0]["backendRefs"][0]["name"], json!(pool.metadata.name));
        stage.namespace.api::<ModelRoute>().get(name).await?;
        kthena(
            &stage.proxy.kubeconfig(),
            &["rollout", "status", name, "-n", stage.namespace.name(), "--timeout", "60s"],
            0,
            &["is rolled out"],
        )
        .await?;
    }

    let listed = async |words: &[&str], wanted: &[&str]| {
        let words = [&["get"], words].concat();
        kthena(&stage.proxy.kubeconfig(), &words, 0, wanted).await
    };
    let here = ["-n", stage.namespace.name()];
    let servings = listed(&[&["model-servings"], &here[..]].concat(), &["NAME", "READY", "STATUS", "AGE"]).await?;
    assert!(servings.lines().any(|line| line.split_whitespace().take(3).eq(["dp", "1/1", "Ready"])), "{servings}");
    let servers = listed(&[&["mserver", "dp"], &here[..]].concat(), &["4/4"]).await?;
    assert_eq!(servers.lines().count(), 2, "{servers}");
    listed(&["model-routes", "-A"], &["NAMESPACE", stage.namespace.name(), "set"]).await?;
    let one = listed(&[&["ms", "dp", "-o", "json"], &here[..]].concat(), &[]).await?;
    assert_eq!(serde_json::from_str::<Value>(&one)?["metadata"]["name"], "dp");
    Ok(())
}

#[tokio::test]
async fn what_is_in_the_way_is_said_and_nothing_is_made() -> Result<()> {
    let stage = Stage::without_operator("template-errors").await?;
    let nothing = async |what: &str| -> Result<()> {
        let made = stage.namespace.api::<ModelServing>().list(&ListParams::default()).await?;
        assert!(made.items.is_empty(), "{what}: {made:?}");
        Ok(())
    };
    manifest(&stage, "-t vllm", 1, &["there is no terminal to ask at", "--yes", "--dry-run"]).await?;
    manifest(&stage, "-t vlm --yes", 1, &["there is no template \"vlm\"", "vllm-data-parallel"]).await?;
    manifest(&stage, "-t vllm --set gpu=2 --yes", 1, &["has no value \"gpu\"", "gpus"]).await?;
    manifest(&stage, "-t vllm --name LLM --yes", 1, &["metadata.name: invalid name \"LLM\""]).await?;
    nothing("a wrong command").await?;

    create_server(&stage.namespace, "taken", "llm").await?;
    let words = ["nothing was created: ModelServer taken exists in namespace", "choose another name with --name"];
    manifest(&stage, "-t vllm --name taken --yes", 1, &words).await?;
    let pool = json!({"spec": {
        "selector": {"matchLabels": {"app": "llm"}}, "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
    }});
    create::<InferencePool>(&stage.namespace, "pool", pool).await?;
    manifest(&stage, "-t vllm --name pool --yes", 1, &["InferencePool pool exists in namespace", "--name"]).await?;
    let nowhere = ["create", "manifest", "-t", "vllm", "--yes", "-n", "no-such-namespace"];
    kthena(&stage.proxy.kubeconfig(), &nowhere, 1, &["there is no namespace no-such-namespace"]).await?;
    nothing("a clash").await?;

    manifest(&stage, "-t vllm --dry-run=server", 0, &["takes them: modelserving/vllm, modelserver/vllm"]).await?;
    nothing("a dry run").await?;
    manifest(&stage, "-t vllm --yes", 0, &["httproute/vllm created"]).await?;
    manifest(&stage, "-t vllm --yes", 1, &["ModelServing vllm exists", "HTTPRoute vllm exists"]).await?;
    Ok(())
}

#[tokio::test]
async fn manifests_are_shown_without_a_cluster() -> Result<()> {
    let nowhere = Path::new("/nowhere/kubeconfig");
    let words = ["create", "manifest", "-t", "vllm", "--set", "gpus=4,kvEvents=true", "--dry-run"];
    let text =
        kthena(nowhere, &words, 0, &["--tensor-parallel-size=4", "--kv-events-config", "namespace: \"default\""])
            .await?;
    assert_eq!(text.matches("\nkind: ").count(), 4, "{text}");
    let json: Value = serde_json::from_str(&kthena(nowhere, &[&words[..], &["-o", "json"]].concat(), 0, &[]).await?)?;
    assert_eq!(json["items"][0]["kind"], "ModelServing");
    kthena(nowhere, &["get", "templates"], 0, &["NAME", "vllm-prefill-decode-nixl", "NIXL"]).await?;
    kthena(nowhere, &["get", "template", "vllm"], 0, &["kind: ModelServing", "{{ model }}"]).await?;
    let described =
        ["VALUE", "gpus", "number", "path|model", "nvidia.com/gpu", "ModelServing, ModelServer, ModelRoute"];
    kthena(nowhere, &["describe", "template", "vllm"], 0, &described).await?;
    Ok(())
}

async fn post(stage: &Stage, path: &str, object: &Value) -> Result<()> {
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())?;
    stage.namespace.client().request::<Value>(request).await?;
    Ok(())
}

/// Has the API server take ModelRoutes of the stage in a rehearsal, and refuse them when they are meant.
async fn refuse_routes_that_are_meant(stage: &Stage) -> Result<()> {
    let name = stage.namespace.name();
    let routes = json!([{
        "apiGroups": ["networking.serving.volcano.sh"], "apiVersions": ["*"], "resources": ["modelroutes"],
        "operations": ["CREATE"],
    }]);
    let here = json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"namespaceSelector": here, "resourceRules": routes},
            "validations": [{"expression": "has(request.dryRun) && request.dryRun", "message": "not today"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    post(stage, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", &policy).await?;
    post(stage, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", &binding).await?;
    let routes = stage.namespace.api::<ModelRoute>();
    poll::until("a route to be refused", SOON, async || {
        let refused = create_route(&stage.namespace, "probe", "probe", "probe").await.is_err();
        // One that was taken goes again: else its name would be what is refused.
        let found = routes.get_opt("probe").await.ok()?.is_some();
        if found {
            routes.delete("probe", &DeleteParams::default()).await.ok()?;
        }
        (refused && !found).then_some(())
    })
    .await
}

#[tokio::test]
async fn what_is_refused_after_all_leaves_nothing_behind() -> Result<()> {
    let stage = Stage::without_operator("template-late").await?;
    refuse_routes_that_are_meant(&stage).await?;
    manifest(&stage, "-t vllm --yes", 1, &["nothing was created", "ModelRoute vllm is refused", "not today"]).await?;
    let gone = poll::until("the end of what was made before", SOON, async || {
        let servings = stage.namespace.api::<ModelServing>().list(&ListParams::default()).await.ok()?;
        let servers = stage.namespace.api::<ModelServer>().list(&ListParams::default()).await.ok()?;
        (servings.items.is_empty() && servers.items.is_empty()).then_some(())
    });
    gone.await
}
