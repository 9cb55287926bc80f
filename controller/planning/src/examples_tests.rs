//! The examples for vLLM give the pods, ranks and addresses that their guides promise.

use crate::observed::{GangSupport, Observed};
use crate::plan::Write;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::core::v1::{EnvVar, Pod};

/// What a user applies, planned for a cluster with Volcano where nothing is there yet; one line for each object.
fn planned(manifest: &str) -> String {
    let serving: ModelServing = serde_saphyr::from_str(manifest).expect("a ModelServing");
    let observed = Observed { gangs: GangSupport::SubGroups, ..Observed::default() };
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut lines = Vec::new();
    for write in crate::plan(&serving, &observed, now).steps.into_iter().flat_map(|step| step.writes) {
        match write {
            Write::CreatePod(pod) => lines.push(format!("pod {}: {}", name(&pod.metadata), command(&pod))),
            Write::ApplyService(service) => {
                let selector = service.spec.and_then(|spec| spec.selector).unwrap_or_default();
                let entry = selector.get("modelserving.volcano.sh/entry").map(String::as_str);
                lines.push(format!("service {}: entry={}", name(&service.metadata), entry.unwrap_or("?")));
            }
            Write::ApplyPodGroup(gang) => {
                let gpus = gang.spec.min_resources.unwrap_or_default();
                let gpus = gpus.get("nvidia.com/gpu").map(|gpus| gpus.0.clone()).unwrap_or_default();
                let members = gang.spec.min_member.unwrap_or_default();
                lines.push(format!("gang {}: {members} pods, {gpus} GPUs", name(&gang.metadata)));
            }
            Write::CreateRevision(_) | Write::Status(_) => {}
            other => panic!("nothing else is to be written: {other:?}"),
        }
    }
    lines.sort();
    lines.join("\n")
}

fn name(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// What the kubelet starts: command and arguments, with the variables of the container filled in.
fn command(pod: &Pod) -> String {
    let container = &pod.spec.as_ref().expect("a spec").containers[0];
    let env = container.env.as_deref().unwrap_or_default();
    let words = container.command.iter().flatten().chain(container.args.iter().flatten());
    words.map(|word| filled_in(word, env)).collect::<Vec<_>>().join(" ")
}

/// As Kubernetes does it: `$(NAME)` is the variable's value, `$$` is a dollar sign, what is unknown stays as it is.
fn filled_in(word: &str, env: &[EnvVar]) -> String {
    let mut filled = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        filled.push_str(before);
        let variable = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        let value = variable.and_then(|(name, behind)| {
            let found = env.iter().find(|one| one.name == name)?;
            Some((found.value.as_deref().unwrap_or_default(), behind))
        });
        (rest, filled) = match (value, after.strip_prefix('$')) {
            (Some((value, behind)), _) => (behind, filled + value),
            (None, Some(behind)) => (behind, filled + "$"),
            (None, None) => (after, filled + "$"),
        };
    }
    filled + rest
}

#[test]
fn each_data_parallel_pod_is_one_rank() {
    let manifest = include_str!("../../../gateway-api-examples/vllm-data-parallel/model-serving.yaml");
    let rank = |index: u32| {
        format!(
            "pod qwen-0-rank-0-{index}: vllm serve Qwen/Qwen3-30B-A3B --port=8000 --data-parallel-size=4 \
             --data-parallel-rank={index} --data-parallel-address=qwen-0-rank-0-0.default --data-parallel-rpc-port=13345"
        )
    };
    let expected = [
        "gang qwen-0: 4 pods, 4 GPUs".to_owned(),
        rank(0),
        rank(1),
        rank(2),
        rank(3),
        "service qwen-0-rank-0-0: entry=true".to_owned(),
    ];
    assert_eq!(planned(manifest), expected.join("\n"));
}

#[test]
fn more_ranks_are_one_number() {
    let manifest = include_str!("../../../gateway-api-examples/vllm-data-parallel/model-serving.yaml");
    let planned = planned(&manifest.replace("workerReplicas: 3", "workerReplicas: 7"));
    assert!(planned.contains("pod qwen-0-rank-0-7: "), "{planned}");
    assert_eq!(planned.matches("--data-parallel-size=8").count(), 8, "{planned}");
}

#[test]
fn the_expert_parallel_workers_begin_where_the_entry_pod_ends() {
    let manifest = include_str!("../../../gateway-api-examples/vllm-expert-parallel/model-serving.yaml");
    let expected = "\
gang deepseek-0: 2 pods, 16 GPUs
pod deepseek-0-node-0-0: sh -c exec vllm serve deepseek-ai/DeepSeek-V3.1 --port 8000 --enable-expert-parallel \
--data-parallel-size $((GROUP_SIZE * 8)) --data-parallel-size-local 8 --data-parallel-address deepseek-0-node-0-0.default \
--data-parallel-rpc-port 13345 --api-server-count 4
pod deepseek-0-node-0-1: sh -c exec vllm serve deepseek-ai/DeepSeek-V3.1 --headless --enable-expert-parallel \
--data-parallel-size $((GROUP_SIZE * 8)) --data-parallel-size-local 8 --data-parallel-start-rank $((WORKER_INDEX * 8)) \
--data-parallel-address deepseek-0-node-0-0.default --data-parallel-rpc-port 13345
service deepseek-0-node-0-0: entry=true";
    assert_eq!(planned(manifest), expected);
}
