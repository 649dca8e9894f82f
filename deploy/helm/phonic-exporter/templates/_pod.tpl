{{- /* The pod, of the StatefulSet and of the Deployment. */ -}}
{{- define "phonic-exporter.pod" -}}
metadata:
  labels:
    {{- include "phonic-exporter.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "phonic-exporter.fullname" . }}
  automountServiceAccountToken: false
  # Kubernetes would make variables PHONIC_EXPORTER_… for the Service, next to those that are settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.state.url }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "phonic-exporter.selector" $ | nindent 10 }}
    {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: phonic-exporter
      image: {{ include "phonic-exporter.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - {{ include "phonic-exporter.keyFlag" . }}
        - --log.format=json
        {{- if .Values.state.url }}
        - {{ printf "--state.url=%s" .Values.state.url | quote }}
        {{- if .Values.state.password.secretName }}
        - --state.password-file=/etc/phonic-exporter/database/{{ .Values.state.password.key }}
        {{- end }}
        - --shard.count={{ .Values.shard.count }}
        {{- end }}
        {{- range .Values.args }}
        - {{ . | quote }}
        {{- end }}
      {{- with .Values.env }}
      env: {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: metrics
          containerPort: 10058
      startupProbe:
        httpGet: { path: /-/healthy, port: metrics }
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 30
      readinessProbe:
        httpGet: { path: /-/ready, port: metrics }
        periodSeconds: 10
        timeoutSeconds: 5
      livenessProbe:
        httpGet: { path: /-/healthy, port: metrics }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        {{- if not .Values.state.url }}
        - { name: state, mountPath: /var/lib/phonic-exporter }
        {{- end }}
        - { name: secret, mountPath: /etc/phonic-exporter/secret, readOnly: true }
        - { name: tmp, mountPath: /tmp }
        {{- if and .Values.state.url .Values.state.password.secretName }}
        - { name: database, mountPath: /etc/phonic-exporter/database, readOnly: true }
        {{- end }}
  volumes:
    - name: secret
      secret:
        secretName: {{ .Values.apiKey.secretName }}
        defaultMode: 0440
    - name: tmp # where `phonic-exporter healthcheck` looks for the exporter
      emptyDir: { medium: Memory, sizeLimit: 1Mi }
    {{- if and .Values.state.url .Values.state.password.secretName }}
    - name: database
      secret:
        secretName: {{ .Values.state.password.secretName }}
        defaultMode: 0440
    {{- end }}
{{- end -}}
