{{/* Names and labels that all objects share. */}}

{{- define "nodepool.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The release's name is added unless it says the chart's already: `helm install nodepool-operator …` repeats nothing. */}}
{{- define "nodepool.fullname" -}}
{{- $name := include "nodepool.name" . -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "nodepool.namespace" -}}
{{ default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/* Of objects outside namespaces: two releases of one name in two namespaces share none. */}}
{{- define "nodepool.clustername" -}}
{{- $fullname := include "nodepool.fullname" . -}}
{{- $namespace := include "nodepool.namespace" . -}}
{{ eq $fullname $namespace | ternary $fullname (printf "%s-%s" $namespace $fullname) }}
{{- end }}

{{- define "nodepool.selector" -}}
app.kubernetes.io/name: {{ include "nodepool.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nodepool.labels" -}}
{{ include "nodepool.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: nodepool
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* metadata: {{ include "nodepool.metadata" (dict "root" . "name" "…" "labels" … "annotations" … "cluster" true) }} */}}
{{- define "nodepool.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .namespace | default (include "nodepool.namespace" $root) }}
{{- end }}
labels:
  {{- include "nodepool.labels" $root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "nodepool.serviceaccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "nodepool.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "nodepool.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}
{{- else }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "nodepool.pullsecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "nodepool.leasename" -}}
{{ default (include "nodepool.fullname" .) .Values.leaseName }}
{{- end }}
