{{- define "gateway.labels" -}}
app.kubernetes.io/name: neuronetz-gateway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "gateway.metadata" -}}
name: {{ .root.Release.Name }}-{{ .component }}
labels:
  {{- include "gateway.labels" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The variables whose files a component gets: what it reads, as far as the Secret has it. */}}
{{- define "gateway.secretVariables" -}}
{{- $stores := list "DATABASE_URL" "DATABASE_DIRECT_URL" -}}
{{- $backends := list "OLLAMA_BACKENDS" "OLLAMA_AUTH_TOKEN" -}}
{{- $wanted := concat $stores (list "REDIS_URL") $backends -}}
{{- if eq .component "migrate" -}}
{{- $wanted = append $stores "GATEWAY_ADMIN_KEY_DIGEST" -}}
{{- else if ne .component "worker" -}}
{{- $wanted = concat $wanted (list "GATEWAY_KEY_PEPPER" "GATEWAY_METRICS_TOKEN") -}}
{{- end -}}
{{- range $variable, $key := .root.Values.secrets.files }}
{{- if has $variable $wanted }}{{ $variable }} {{ $key }}
{{ end }}
{{- end }}
{{- end }}

{{- define "gateway.secretEnv" -}}
{{- range (include "gateway.secretVariables" . | trim | splitList "\n") }}
{{- $pair := splitList " " . }}
- name: {{ index $pair 0 }}_FILE
  value: /run/secrets/neuronetz-gateway/{{ index $pair 1 }}
{{- end }}
{{- end }}

{{- define "gateway.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ .root.Values.secrets.name }}
    defaultMode: 0440
    items:
      {{- range (include "gateway.secretVariables" . | trim | splitList "\n") }}
      {{- $pair := splitList " " . }}
      - {key: {{ index $pair 1 }}, path: {{ index $pair 1 }}}
      {{- end }}
{{- end }}

{{- define "gateway.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gateway.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "gateway.labels" . | nindent 8 }}
{{- end }}

{{- define "gateway.image" -}}
{{- with .root.Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.root.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The file of revocations, for whoever adds to it and for `restore-fence`. */}}
{{- define "gateway.mirrorEnv" -}}
{{- if .root.Values.revocationMirror.claim }}
- {name: GATEWAY_REVOCATION_MIRROR, value: /var/lib/neuronetz-gateway/mirror/revocations}
{{- end }}
{{- end }}

{{- define "gateway.mirrorMount" -}}
{{- if .root.Values.revocationMirror.claim }}
- {name: mirror, mountPath: /var/lib/neuronetz-gateway/mirror}
{{- end }}
{{- end }}

{{- define "gateway.mirrorVolume" -}}
{{- with .root.Values.revocationMirror.claim }}
- name: mirror
  persistentVolumeClaim: {claimName: {{ . }}}
{{- end }}
{{- end }}

{{- define "gateway.container" -}}
image: {{ include "gateway.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- if .root.Values.config }}
envFrom:
  - configMapRef: {name: {{ .root.Release.Name }}-config}
{{- end }}
{{- end }}

{{- define "gateway.annotations" -}}
checksum/config: {{ toJson .root.Values.config | sha256sum }}
{{- end }}
