{{- define "phonic-exporter.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "phonic-exporter.selector" -}}
app.kubernetes.io/name: phonic-exporter
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "phonic-exporter.labels" -}}
{{ include "phonic-exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "phonic-exporter.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "phonic-exporter.keyFlag" -}}
{{- if .Values.apiKey.key -}}
--phonic.api-key-file=/etc/phonic-exporter/secret/{{ .Values.apiKey.key }}
{{- else -}}
--phonic.api-key-dir=/etc/phonic-exporter/secret
{{- end -}}
{{- end -}}

{{- /* As libpq reads a URL of several hosts: ?port= overrides the ports of the hosts, and a host without one has 5432. */ -}}
{{- define "phonic-exporter.databasePorts" -}}
{{- $hosts := regexReplaceAll "^.*[/@]" (regexFind "//[^/?#]*" .Values.state.url) "" -}}
{{- $given := regexFind "[?&]port=[0-9][^&#]*" .Values.state.url -}}
{{- $ends := regexReplaceAll ".port=|,|%2[Cc]" $given ",:" | trimPrefix "," | default $hosts -}}
{{- $ports := list -}}
{{- range splitList "," $ends -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default "5432") -}}
{{- end -}}
{{- $ports | uniq | join "," -}}
{{- end -}}
