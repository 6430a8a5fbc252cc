{{- define "palu.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- define "palu.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "palu.labels" -}}
{{ include "palu.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "palu.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" (gt (int .Values.gpus) 0))) -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end }}

{{- define "palu.modelPath" -}}
{{ ternary "/usr/share/palu/models/classics-14m" "/models/model" (eq .Values.model.source "image") }}
{{- end }}

{{- define "palu.claim" -}}
{{- if eq .Values.model.source "claim" -}}
{{ required "model.claim is needed with model.source=claim" .Values.model.claim }}
{{- else -}}
{{ include "palu.name" . }}-model
{{- end -}}
{{- end }}

{{- define "palu.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
