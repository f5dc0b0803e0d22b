{{- define "trierarch.name" -}}
{{- if contains "trierarch" .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-trierarch" .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "trierarch.selector" -}}
app.kubernetes.io/name: trierarch
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trierarch.labels" -}}
{{ include "trierarch.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* name=url of every master, by the names that their pods have within the namespace. */}}
{{- define "trierarch.members" -}}
{{- $name := include "trierarch.name" . -}}
{{- range $n := until (int .Values.masters) -}}
{{- if $n }},{{ end -}}
{{ $name }}-{{ $n }}=https://{{ $name }}-{{ $n }}.{{ $name }}-members.{{ $.Release.Namespace }}.svc:2380
{{- end -}}
{{- end -}}
