{{/* The settings of worker.yaml: config, and what follows from gpu.enabled where config says nothing of it. */}}
{{- define "headrace.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $silent := not (hasKey $config.model "providers") }}
{{- if and .Values.gpu.enabled $silent (not (hasKey $config.model "require_provider")) }}
{{- $_ := set $config.model "require_provider" "cuda" }}
{{- else if and (not .Values.gpu.enabled) $silent }}
{{- $_ := set $config.model "providers" (list "cpu") }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- define "headrace.probesPort" -}}
{{- dig "probes" "port" 8080 .Values.config | int }}
{{- end }}

{{- define "headrace.secretsPath" -}}
/etc/headrace-secrets
{{- end }}

{{/* Rules between values, which the schema cannot state. Each says what would go wrong and what to write. */}}
{{- define "headrace.validate" -}}
{{- $config := .Values.config }}
{{- $kafka := $config.kafka }}
{{- $drain := dig "drain" "timeout_s" 20 $config | float64 }}
{{- if lt (float64 .Values.terminationGracePeriodSeconds) (addf $drain 5.0) }}
{{- fail (printf "terminationGracePeriodSeconds is %v and config.drain.timeout_s is %v: Kubernetes would kill the worker before it has drained. Set terminationGracePeriodSeconds to at least %v." .Values.terminationGracePeriodSeconds $drain (ceil (addf $drain 5.0))) }}
{{- end }}
{{- if eq (include "headrace.probesPort" .) "0" }}
{{- fail "config.probes.port is 0: Kubernetes cannot probe a port that changes. Set a fixed port, such as 8080." }}
{{- end }}
{{- $host := dig "probes" "host" "0.0.0.0" $config }}
{{- if or (hasPrefix "127." $host) (has $host (list "localhost" "::1")) }}
{{- fail (printf "config.probes.host is %s: Kubernetes probes the pod from outside. Remove the key." $host) }}
{{- end }}
{{- $protocol := dig "security_protocol" "PLAINTEXT" $kafka }}
{{- $secret := and .Values.existingSecret.name .Values.existingSecret.saslPasswordKey }}
{{- if and (hasPrefix "SASL_" $protocol) (not $secret) (not $kafka.sasl_password_file) }}
{{- fail (printf "config.kafka.security_protocol is %s, but there is no password: create a Secret and name it in existingSecret.name." $protocol) }}
{{- end }}
{{- if and $secret (not (hasPrefix "SASL_" $protocol)) }}
{{- fail (printf "existingSecret.saslPasswordKey is set, but config.kafka.security_protocol is %s: the worker would refuse a password that it cannot use. Set SASL_SSL, or saslPasswordKey to null." $protocol) }}
{{- end }}
{{- if and $kafka.group_instance_id (gt (int .Values.replicaCount) 1) }}
{{- fail (printf "config.kafka.group_instance_id is %s, but replicaCount is %v: all pods would have one name, and fence each other. Remove it, or set replicaCount to 1." $kafka.group_instance_id .Values.replicaCount) }}
{{- end }}
{{- $claim := .Values.model.existingClaim }}
{{- $mount := printf "%s/" (trimSuffix "/" .Values.model.mountPath) }}
{{- if and $claim (not (hasPrefix $mount $config.model.path)) }}
{{- fail (printf "model.existingClaim is %s, mounted at %s, but config.model.path is %s: the claim would not be used. Point config.model.path below the mount." $claim .Values.model.mountPath $config.model.path) }}
{{- end }}
{{- if hasKey .Values.files "worker.yaml" }}
{{- fail "files has the key worker.yaml, which the chart writes itself. Write its content under config." }}
{{- end }}
{{- end }}
