# nginx-proxy, settings of the gateway's virtual host.
#
# Install: copy to the directory that nginx-proxy mounts as /etc/nginx/vhost.d, under the exact name in GATEWAY_VIRTUAL_HOST,
# and write that name into the proxy_pass below too. nginx-proxy includes it when it next writes its configuration: when the gateway
# starts, or, if that runs already, by `docker restart nginx-proxy`. A reload alone includes nothing; for a later change of this
# file it is enough: docker exec nginx-proxy nginx -t && docker exec nginx-proxy nginx -s reload
#
# Everything belongs into this file, at the level of the server. In NAME_location, one add_header would drop all of these
# and HSTS, and one proxy_set_header would drop X-Forwarded-For and all others, so that clients could forge their address.
#
# The gateway takes client addresses from nginx-proxy's X-Forwarded-For because GATEWAY_TRUSTED_PROXIES names its container: name yours there if it
# is not called nginx-proxy.
#
# The gateway's container needs the label com.github.nginx-proxy.nginx-proxy.keepalive=disabled: nginx keeps idle connections for
# longer than the gateway does, and a POST that meets one just being closed becomes a 502.

# As large as GATEWAY_MAX_BODY_BYTES; nginx's own default of 1m would refuse images. Prompts up to the second size stay out of
# files of nginx. Bodies are still taken in whole first (proxy_request_buffering on), so a slow upload costs the gateway nothing.
client_max_body_size 32m;
client_body_buffer_size 1m;

# The longest wait that can end well: a minute in line, and two backends that take ten minutes each to their first byte.
# Whoever raises GATEWAY_QUEUE_MAX_WAIT_SECONDS or GATEWAY_FIRST_BYTE_TIMEOUT_SECONDS raises this with them.
proxy_read_timeout 1260s;
proxy_send_timeout 60s;
# A replica that is gone is noticed soon, and the next one asked.
proxy_connect_timeout 5s;
# Longer than GATEWAY_WRITE_TIMEOUT_SECONDS: the gateway is the one to drop a client that does not read.
send_timeout 60s;

# Each record leaves as it comes, and a client that reads slowly is felt by the gateway instead of filling a file of nginx.
proxy_buffering off;
gzip off;

# Only what was certainly not worked on goes to another replica. This is nginx's own default, written down because
# `non_idempotent` would have prompts answered twice.
proxy_next_upstream error timeout;
# Several replicas: restart one, wait until it is ready, and 15 s more. nginx leaves a replica that refused alone for ten seconds, and
# answers 502 while it leaves all alone. With that, a rolling restart loses no request.

# Strict-Transport-Security comes from nginx-proxy (variable HSTS of the gateway's container): it stands in the same server, so
# these join it. A second one here would be sent as well.
add_header X-Content-Type-Options nosniff always;
add_header X-Frame-Options DENY always;
add_header Referrer-Policy no-referrer always;

# Keys in paths (GATEWAY_PATH_KEYS): nginx would write them into both its logs. The gateway's own log has these requests without
# the key. Over plain http, nginx-proxy logs a path before it redirects; a key that went that way is to be revoked anyway.
location /k/ {
    access_log off;
    error_log /dev/null crit;
    proxy_pass http://gateway.example.com;   # nginx-proxy's upstream of this host; no path here
}
