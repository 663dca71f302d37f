{{- define "smartbatch.name" -}}
{{- if contains "smartbatch" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-smartbatch{{ end }}
{{- end }}

{{/* The labels of an object; (dict "root" $ "component" "worker" "model" "resnet18" "version" 1), the model and the version
     only of workers. */}}
{{- define "smartbatch.labels" -}}
{{ include "smartbatch.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "smartbatch.selector" -}}
app.kubernetes.io/name: smartbatch
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .model }}
smartbatch/model: {{ . | quote }}
{{- end }}
{{- with .version }}
smartbatch/version: {{ int64 . | quote }}
{{- end }}
{{- end }}

{{/* A map of settings as environment variables. Helm reads whole numbers as floats, which Go prints as 5.3e+08. */}}
{{- define "smartbatch.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ if and (kindIs "float64" $value) (eq $value (floor $value)) }}{{ printf "%.0f" $value | quote }}{{ else }}{{ toString $value | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* The settings of all processes, and of some; (list $ $more). The last one that has a name counts. */}}
{{- define "smartbatch.settings" -}}
{{- $root := first . }}
{{- $settings := dict "REDIS_URL" (include "smartbatch.brokerUrl" $root) }}
{{- if $root.Values.broker.passwordSecret.name }}
{{- $_ := set $settings "REDIS_PASSWORD_FILE" "/run/secrets/broker/password" }}
{{- end }}
{{- range $more := prepend (rest .) $root.Values.settings }}
{{- range $name, $value := $more }}{{ $_ := set $settings $name $value }}{{ end }}
{{- end }}
{{- if le (float64 $settings.GRACE_TIME) (float64 $settings.REQUEST_TIMEOUT) }}
{{- fail (printf "GRACE_TIME (%v) must be longer than REQUEST_TIMEOUT (%v): otherwise a pod that stops breaks requests" $settings.GRACE_TIME $settings.REQUEST_TIMEOUT) }}
{{- end }}
{{- toJson $settings }}
{{- end }}

{{- define "smartbatch.brokerUrl" -}}
{{- default (printf "redis://%s-broker:6379/0" (include "smartbatch.name" .)) .Values.broker.url }}
{{- end }}

{{/* A worker of values, with workerDefaults for what it doesn't say. */}}
{{- define "smartbatch.worker" -}}
{{- $worker := deepCopy (first .).Values.workerDefaults }}
{{- range $name, $value := last . }}
{{- if and (kindIs "map" $value) (has $name (list "autoscaling" "modelFiles" "settings")) }}
{{- $merged := get $worker $name }}
{{- range $key, $inner := $value }}{{ $_ := set $merged $key $inner }}{{ end }}
{{- else }}
{{- $_ := set $worker $name $value }}
{{- end }}
{{- end }}
{{- toJson $worker }}
{{- end }}

{{/* What identifies a version of a model: its name, and @version unless that is 1. */}}
{{- define "smartbatch.modelId" -}}
{{ .model }}{{ if ne (int64 .version) 1 }}@{{ int64 .version }}{{ end }}
{{- end }}

{{/* The name of a worker's objects: a model's may have capitals, dots and underscores. */}}
{{- define "smartbatch.workerName" -}}
{{ include "smartbatch.name" (first .) }}-worker-{{ (last .).model | lower | replace "_" "-" | replace "." "-" | trimAll "-" | trunc 40 }}
{{- $version := int64 (last .).version }}{{ if ne $version 1 }}-v{{ $version }}{{ end }}
{{- end }}

{{- define "smartbatch.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false # variables such as METRICS_PORT would be taken for settings
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "smartbatch.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "smartbatch.passwordVolume" -}}
{{- with .Values.broker.passwordSecret }}{{ if .name }}
- name: broker-password
  secret:
    secretName: {{ .name }}
    items: [{key: {{ .key }}, path: password}]
{{- end }}{{ end }}
{{- end }}

{{- define "smartbatch.passwordMount" -}}
{{- if .Values.broker.passwordSecret.name }}
- {name: broker-password, mountPath: /run/secrets/broker, readOnly: true}
{{- end }}
{{- end }}
