{{- define "kthena.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "kthena.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: kthena
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "kthena.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- /* What `restricted` pod security asks of every container. */ -}}
{{- define "kthena.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "kthena.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "kthena.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "kthena.selector" . | nindent 6 }}
{{- end }}

{{- /* The release's namespace, and the others with pools; each once, as JSON. */ -}}
{{- define "kthena.pickerNamespaces" -}}
{{- if and .Values.picker.allNamespaces .Values.picker.poolNamespaces }}
{{- fail "picker.allNamespaces is one picker for all namespaces, picker.poolNamespaces one in each of these: leave one of them out" }}
{{- end }}
{{- prepend .Values.picker.poolNamespaces .Release.Namespace | uniq | toJson }}
{{- end }}
