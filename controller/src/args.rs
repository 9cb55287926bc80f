//! The command line: Kthena's flags and ours. Every flag is also an environment variable, `KTHENA_` and its name.

mod controllers;

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use clap::Parser;
use controller_api::inference_pool::FailureMode;
use planning::attachment::Settings;
use planning::validation::is_label;

use crate::telemetry::LogFormat;
pub use controllers::Controllers;

/// The operator: it turns ModelServings into pods, services and gangs, ModelServers into InferencePools and ModelRoutes
/// into HTTPRoutes, and keeps them so.
#[derive(Clone, Debug, Parser)]
#[command(name = "kthena-controller-manager", version, max_term_width = 100)]
pub struct Args {
    /// The cluster, as kubectl knows it; without it $KUBECONFIG, ~/.kube/config or the cluster that this runs in
    #[arg(
        long,
        env = "KTHENA_KUBECONFIG",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true,
        help_heading = "Cluster"
    )]
    pub kubeconfig: String,
    /// The URL of the API server, in place of the kubeconfig's
    #[arg(
        long,
        env = "KTHENA_MASTER",
        value_name = "URL",
        default_value = "",
        hide_default_value = true,
        help_heading = "Cluster"
    )]
    pub master: String,
    /// Writes per second to the API server; 0 is the default, 50
    #[arg(long, env = "KTHENA_KUBE_API_QPS", value_name = "N", default_value_t = 0.0, value_parser = parse_rate, help_heading = "Cluster")]
    pub kube_api_qps: f64,
    /// Writes to the API server in one burst; 0 is the default, 100
    #[arg(long, env = "KTHENA_KUBE_API_BURST", value_name = "N", default_value_t = 0, help_heading = "Cluster")]
    pub kube_api_burst: u32,

    /// Which controllers run: `*` all, `NAME` or `+NAME` that one, `-NAME` not that one; the first that fits a name counts
    #[arg(
        long,
        env = "KTHENA_CONTROLLERS",
        value_name = "LIST",
        default_value = "*",
        allow_hyphen_values = true,
        help_heading = "Work"
    )]
    pub controllers: Controllers,
    /// Objects of each kind that are worked on at the same time
    #[arg(long, env = "KTHENA_WORKERS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Work")]
    pub workers: u16,
    /// Of several replicas only one writes, and ends when it may no longer; `false` is for a single replica
    #[arg(long, env = "KTHENA_LEADER_ELECT", value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Work")]
    pub leader_elect: bool,
    /// The namespace of this process, for its Lease and its certificate; without it that of the pod or the kubeconfig
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", help_heading = "Work")]
    pub pod_namespace: Option<String>,
    /// The name of this process, for its Lease
    #[arg(
        long,
        env = "HOSTNAME",
        value_name = "NAME",
        default_value = "kthena-controller-manager",
        help_heading = "Work"
    )]
    pub hostname: String,

    /// The Service of the picker; one of this name must be in every namespace with ModelServers, or in --picker-namespace
    #[arg(
        long,
        env = "KTHENA_PICKER_SERVICE",
        value_name = "NAME",
        default_value = "kthena-ext-proc",
        help_heading = "Networking"
    )]
    pub picker_service: String,
    /// The namespace of the one picker for pools of all namespaces; without it each has a picker of its own
    #[arg(long, env = "KTHENA_PICKER_NAMESPACE", value_name = "NAMESPACE", default_value = "", hide_default_value = true, value_parser = parse_namespace, help_heading = "Networking")]
    pub picker_namespace: String,
    /// The port of that Service
    #[arg(long, env = "KTHENA_PICKER_PORT", value_name = "PORT", default_value_t = 9002, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Networking")]
    pub picker_port: u16,
    /// What gateways do when the picker does not answer: `FailClose` refuses requests, `FailOpen` sends them anywhere
    #[arg(long, env = "KTHENA_PICKER_FAILURE_MODE", value_name = "MODE", default_value = "FailClose", value_parser = parse_failure_mode, help_heading = "Networking")]
    pub picker_failure_mode: FailureMode,

    /// Envoy Gateway's extension server, and the endpoints of InferencePools for its Envoys (gRPC); 0 is off
    #[arg(
        long,
        env = "KTHENA_EXTENSION_SERVER_PORT",
        value_name = "PORT",
        default_value_t = 0,
        help_heading = "Envoy Gateway"
    )]
    pub extension_server_port: u16,
    /// Where Envoys find that port, as `HOST:PORT`; without it the Service that the chart makes
    #[arg(long, env = "KTHENA_EXTENSION_SERVER_TARGET", value_name = "TARGET", default_value = "", hide_default_value = true, value_parser = parse_target, help_heading = "Envoy Gateway")]
    pub extension_server_target: String,

    /// Serve the admission webhook
    #[arg(long, env = "KTHENA_ENABLE_WEBHOOK", value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Webhook")]
    pub enable_webhook: bool,
    /// The webhook's port; 0 is chosen by the system
    #[arg(long, env = "KTHENA_PORT", value_name = "PORT", default_value_t = 8443, help_heading = "Webhook")]
    pub port: u16,
    /// The webhook's certificate; read again when it changes
    #[arg(
        long,
        env = "KTHENA_TLS_CERT_FILE",
        value_name = "FILE",
        default_value = "/etc/tls/tls.crt",
        help_heading = "Webhook"
    )]
    pub tls_cert_file: PathBuf,
    /// The key of the webhook's certificate
    #[arg(
        long,
        env = "KTHENA_TLS_PRIVATE_KEY_FILE",
        value_name = "FILE",
        default_value = "/etc/tls/tls.key",
        help_heading = "Webhook"
    )]
    pub tls_private_key_file: PathBuf,
    /// Longest time for one webhook request, in seconds
    #[arg(long, env = "KTHENA_WEBHOOK_TIMEOUT", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300), help_heading = "Webhook")]
    pub webhook_timeout: u64,
    /// The Secret of the webhook's certificate, if there are no files
    #[arg(
        long,
        env = "KTHENA_CERT_SECRET_NAME",
        value_name = "NAME",
        default_value = "kthena-controller-manager-webhook-certs",
        help_heading = "Webhook"
    )]
    pub cert_secret_name: String,
    /// The Service of the webhook: the name in its certificate
    #[arg(
        long,
        env = "KTHENA_SERVICE_NAME",
        value_name = "NAME",
        default_value = "kthena-controller-manager-webhook",
        help_heading = "Webhook"
    )]
    pub service_name: String,

    /// Where the webhook and the metrics are bound; `[::]` takes IPv4 too
    #[arg(long, env = "KTHENA_BIND_ADDRESS", value_name = "IP", default_value = "[::]", value_parser = parse_address, help_heading = "Observation")]
    pub bind_address: IpAddr,
    /// `/metrics`, `/healthz` and `/readyz`; 0 is chosen by the system
    #[arg(
        long,
        env = "KTHENA_METRICS_PORT",
        value_name = "PORT",
        default_value_t = 9090,
        help_heading = "Observation"
    )]
    pub metrics_port: u16,
    /// What is known of ModelServings and their objects, as JSON, on loopback; 0 is off
    #[arg(long, env = "KTHENA_DEBUG_PORT", value_name = "PORT", default_value_t = 0, help_heading = "Observation")]
    pub debug_port: u16,
    /// How log lines are written
    #[arg(long, env = "KTHENA_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Observation")]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives as `info,kthena_controller_manager=debug`
    #[arg(long, env = "KTHENA_LOG_LEVEL", value_name = "FILTER", default_value = "info", help_heading = "Observation")]
    pub log_level: String,
    /// Kthena's verbosity: from 4 on, --log-level is `debug`
    #[arg(
        short = 'v',
        long = "v",
        env = "KTHENA_V",
        value_name = "N",
        default_value_t = 0,
        hide = true,
        help_heading = "Observation"
    )]
    pub v: u8,
}

impl Args {
    /// `--kube-api-qps` and `--kube-api-burst`, with 0 resolved.
    #[must_use]
    pub fn rate(&self) -> (f64, u32) {
        let qps = if self.kube_api_qps > 0.0 { self.kube_api_qps } else { 50.0 };
        (qps, if self.kube_api_burst > 0 { self.kube_api_burst } else { 100 })
    }

    /// What is said of every InferencePool.
    #[must_use]
    pub fn attachment(&self) -> Settings {
        Settings {
            picker_service: self.picker_service.clone(),
            picker_namespace: Some(self.picker_namespace.clone()).filter(|namespace| !namespace.is_empty()),
            picker_port: self.picker_port,
            failure_mode: self.picker_failure_mode,
        }
    }

    /// Where Envoys find the extension server, with the default resolved.
    #[must_use]
    pub fn extension_target(&self, namespace: &str) -> String {
        match self.extension_server_target.as_str() {
            "" => format!("kthena-controller-manager-extension.{namespace}.svc:{}", self.extension_server_port),
            given => given.to_owned(),
        }
    }

    /// `--log-level`, or what `-v` makes of it.
    #[must_use]
    pub fn log_filter(&self) -> &str {
        if self.v >= 4 { "debug" } else { &self.log_level }
    }
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let parsed = bare.map_or_else(|| text.parse().ok(), |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6));
    parsed.ok_or_else(|| "write it as an IP address, for example `[::]`, `0.0.0.0` or `127.0.0.1`".to_owned())
}

fn parse_target(text: &str) -> Result<String, String> {
    let port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    match text.rsplit_once(':') {
        Some((host, number)) if !host.is_empty() && port(number) => Ok(text.to_owned()),
        _ if text.is_empty() => Ok(String::new()),
        _ => Err("write it as a host and a port, for example `operator.kthena-system.svc:5005`".to_owned()),
    }
}

fn parse_namespace(text: &str) -> Result<String, String> {
    let is_good = text.is_empty() || is_label(text) && text.len() <= 63;
    is_good.then(|| text.to_owned()).ok_or_else(|| "write the name of one namespace, as `kthena-system`".to_owned())
}

fn parse_failure_mode(text: &str) -> Result<FailureMode, String> {
    match text {
        "FailOpen" => Ok(FailureMode::FailOpen),
        "FailClose" => Ok(FailureMode::FailClose),
        _ => Err("write FailOpen or FailClose".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|rate| rate.is_finite() && *rate >= 0.0)
        .ok_or_else(|| "write it as a number of requests per second, for example `50`".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, String> {
        let command = std::iter::once(&"kthena-controller-manager").chain(args);
        Args::try_parse_from(command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent_and_every_flag_has_its_environment_variable_and_heading() {
        let command = Args::command();
        command.clone().debug_assert();
        // The variables that Kubernetes itself and the system set.
        let given = [("pod_namespace", "POD_NAMESPACE"), ("hostname", "HOSTNAME")];
        for flag in command.get_arguments().filter(|flag| !["help", "version"].contains(&flag.get_id().as_str())) {
            let id = flag.get_id().as_str();
            let ours = format!("KTHENA_{}", id.to_uppercase());
            let expected = given.iter().find(|(name, _)| *name == id).map_or(ours.as_str(), |(_, variable)| variable);
            assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(expected));
            assert!(flag.get_help_heading().is_some(), "{id} has no heading");
        }
    }

    #[test]
    fn kthenas_command_lines_are_understood() {
        let args = parse(&["--v=2", "--controllers=*", "--kube-api-qps=0", "--kube-api-burst=0"]).unwrap();
        assert_eq!((args.rate(), args.workers, args.leader_elect), ((50.0, 100), 5, true));
        let args = parse(&[
            "--kubeconfig=/a/b",
            "--enable-webhook=false",
            "--leader-elect",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
            "--controllers=modelserving",
            "--webhook-timeout=10",
        ]);
        let args = args.unwrap();
        assert!(!args.enable_webhook && args.leader_elect && args.controllers.serving);
        assert_eq!(args.rate(), (1000.0, 2000));
        assert!(!parse(&["--leader-elect=false"]).unwrap().leader_elect);
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_the_flag_and_an_example() {
        for (flag, value, example) in [
            ("--kube-api-qps", "-1", "50"),
            ("--bind-address", "localhost", "0.0.0.0"),
            ("--controllers", "modelservings", "modelserving"),
            ("--workers", "0", "1..=1000"),
            ("--picker-failure-mode", "open", "FailOpen"),
            ("--picker-namespace", "a,b", "kthena-system"),
            ("--extension-server-target", "operator", "operator.kthena-system.svc:5005"),
        ] {
            let error = parse(&[&format!("{flag}={value}")]).unwrap_err();
            assert!(error.contains(flag) && error.contains(example), "{flag} {value}: {error}");
        }
    }
}
