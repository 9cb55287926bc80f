use super::*;

fn read(variables: &[(&str, &str)]) -> Settings {
    Settings::read(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

fn otlp(variables: &[(&str, &str)]) -> (Protocol, String, Duration) {
    match read(variables).traces {
        Traces::Otlp { protocol, endpoint, timeout, tls: _ } => (protocol, endpoint, timeout),
        other => panic!("{other:?}"),
    }
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

#[test]
fn without_an_endpoint_tracing_is_off() {
    let settings = read(&[]);
    assert_eq!(settings.traces, Traces::Off);
    assert_eq!(settings.service_name, "kthena-ext-proc");
    assert_eq!(settings.sampler, Sampler::ParentBasedAlwaysOn);
    assert_eq!(settings.batch, Batch::default());
    assert!(settings.propagate);
    assert_eq!(settings.warnings, [""; 0]);
    assert_eq!(read(&[(ENDPOINT, "  ")]).traces, Traces::Off, "an empty variable is unset");
}

#[test]
fn tracing_is_switched_off_by_either_variable() {
    let on = (ENDPOINT, "http://c:4317");
    assert_eq!(read(&[on, ("OTEL_SDK_DISABLED", "TRUE")]).traces, Traces::Off);
    assert_eq!(read(&[on, ("OTEL_TRACES_EXPORTER", "none")]).traces, Traces::Off);
    assert_ne!(read(&[on, ("OTEL_SDK_DISABLED", "false")]).traces, Traces::Off);
    assert_eq!(read(&[on, ("OTEL_TRACES_EXPORTER", "console")]).traces, Traces::Console);
}

#[test]
fn the_files_for_a_collector_behind_tls_are_read() {
    let settings = read(&[
        (ENDPOINT, "https://c:4317"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/all.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/own.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/own.key"),
    ]);
    let Traces::Otlp { endpoint, tls, .. } = settings.traces else { panic!("{settings:?}") };
    assert_eq!(endpoint, "https://c:4317");
    let file = |path: &str| Some(PathBuf::from(path));
    let expected =
        TlsFiles { authority: file("/ca.pem"), client_certificate: file("/own.pem"), client_key: file("/own.key") };
    assert_eq!(tls, expected);
}

#[test]
fn the_endpoint_follows_the_rules_of_its_protocol() {
    let protocol = "OTEL_EXPORTER_OTLP_PROTOCOL";
    let traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    type Case<'a> = (&'a [(&'a str, &'a str)], Protocol, &'a str);
    let cases: [Case<'_>; 9] = [
        (&[(ENDPOINT, "http://c:4318")], Protocol::Http, "http://c:4318/v1/traces"),
        (&[(ENDPOINT, "http://c:4318/base/")], Protocol::Http, "http://c:4318/base/v1/traces"),
        (&[(ENDPOINT, "http://c:4317")], Protocol::Grpc, "http://c:4317"),
        (&[(ENDPOINT, "http://c:4317"), (protocol, "http/protobuf")], Protocol::Http, "http://c:4317/v1/traces"),
        (&[(ENDPOINT, "c:9"), (protocol, "grpc")], Protocol::Grpc, "http://c:9"),
        (
            &[(ENDPOINT, "c:9"), (protocol, "grpc"), ("OTEL_EXPORTER_OTLP_INSECURE", "false")],
            Protocol::Grpc,
            "https://c:9",
        ),
        (&[(traces, "http://c:1/x")], Protocol::Http, "http://c:1/x"),
        (&[(traces, "http://t:1/x"), (ENDPOINT, "http://c:4317")], Protocol::Http, "http://t:1/x"),
        (&[("OTEL_TRACES_EXPORTER", "otlp"), (protocol, "grpc")], Protocol::Grpc, "http://localhost:4317"),
    ];
    for (variables, protocol, endpoint) in cases {
        assert_eq!(otlp(variables), (protocol, endpoint.to_owned(), Duration::from_secs(10)), "{variables:?}");
    }
}

#[test]
fn the_variable_of_the_signal_wins() {
    let on = (ENDPOINT, "http://c:4318");
    let (_, _, timeout) =
        otlp(&[on, ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"), ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "700")]);
    assert_eq!(timeout, Duration::from_millis(700));
    let (protocol, ..) =
        otlp(&[on, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")]);
    assert_eq!(protocol, Protocol::Grpc);
}

#[test]
fn resource_attributes_are_decoded_and_the_service_name_wins() {
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a, k8s.pod.name=p%2C1,x=50%");
    let settings = read(&[attributes]);
    assert_eq!(settings.service_name, "a");
    assert_eq!(settings.resource, [("k8s.pod.name".into(), "p,1".into()), ("x".into(), "50%".into())]);
    assert_eq!(read(&[attributes, ("OTEL_SERVICE_NAME", "b")]).service_name, "b");
}

#[test]
fn samplers_take_their_argument() {
    let read = |name, argument| read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]).sampler;
    assert_eq!(read("always_on", ""), Sampler::AlwaysOn);
    assert_eq!(read("always_off", "0.3"), Sampler::AlwaysOff);
    assert_eq!(read("traceidratio", "0.25"), Sampler::Ratio(0.25));
    assert_eq!(read("parentbased_traceidratio", ""), Sampler::ParentBasedRatio(1.0));
    assert_eq!(read("parentbased_always_off", ""), Sampler::ParentBasedAlwaysOff);
}

#[test]
fn the_queue_is_never_smaller_than_a_batch() {
    let settings = read(&[("OTEL_BSP_MAX_QUEUE_SIZE", "100"), ("OTEL_BSP_SCHEDULE_DELAY", "50")]);
    assert_eq!((settings.batch.queue, settings.batch.size, settings.batch.delay.as_millis()), (100, 100, 50));
    assert!(settings.warnings.is_empty());
    let settings = read(&[("OTEL_BSP_MAX_QUEUE_SIZE", "10"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "11")]);
    assert_eq!(settings.batch.size, 10);
    assert_eq!(settings.warnings.len(), 1);
}

#[test]
fn propagators_are_known_or_warned_about() {
    let read = |value| read(&[("OTEL_PROPAGATORS", value)]);
    assert!(read("baggage,tracecontext").propagate);
    assert!(!read("none").propagate);
    assert!(!read("b3").propagate);
    assert!(read("b3").warnings[0].starts_with("OTEL_PROPAGATORS must be"));
}

#[test]
fn every_bad_value_is_named_and_replaced() {
    let bad = [
        "OTEL_SDK_DISABLED",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_TRACES_SAMPLER",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "OTEL_BSP_SCHEDULE_DELAY",
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_PROPAGATORS",
        "OTEL_RESOURCE_ATTRIBUTES",
    ];
    for name in bad {
        let settings = read(&[(ENDPOINT, "http://c:4318"), (name, "-nonsense-")]);
        assert_eq!(settings.warnings.len(), 1, "{name}: {:?}", settings.warnings);
        assert!(settings.warnings[0].contains(name) && settings.warnings[0].contains("-nonsense-"));
        assert_ne!(settings.traces, Traces::Off, "{name}");
        assert_eq!(settings.batch, Batch::default());
    }
    let settings = read(&[("OTEL_TRACES_EXPORTER", "zipkin")]);
    assert_eq!((settings.traces, settings.warnings.len()), (Traces::Off, 1));
    let settings = read(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "7")]);
    assert_eq!((settings.sampler, settings.warnings.len()), (Sampler::Ratio(1.0), 1));
}
