# The images of docker-compose.yml: etcd, haproxy and storage. docs/compose.md says how to use them.
#
# The stages stand in this order because Docker's old builder makes all that are above the wanted
# one: so only what needs the programs waits for their compiler.
ARG BASE=debian:trixie-slim
ARG RUST=rust:1-trixie

FROM ${BASE} AS etcd
COPY docker/install /usr/local/sbin/install-packages
RUN install-packages etcd-server etcd-client
COPY docker/etcd-healthy /usr/local/sbin/
VOLUME /var/lib/etcd
EXPOSE 2379
HEALTHCHECK --interval=30s --timeout=30s --start-period=60s CMD ["etcd-healthy"]
CMD ["etcd"]

FROM ${BASE} AS haproxy
COPY docker/install /usr/local/sbin/install-packages
RUN install-packages haproxy
COPY docker/haproxy.cfg /etc/haproxy/haproxy.cfg
EXPOSE 7420
CMD ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]

# Another image with the programs in /programs may be given as RUST: then nothing is built.
FROM ${RUST} AS programs
WORKDIR /source
COPY . .
RUN docker/build-programs /programs

FROM ${BASE} AS storage
COPY docker/install /usr/local/sbin/install-packages
RUN install-packages nfs-kernel-server btrfs-progs kmod
COPY docker/nfs.conf /etc/nfs.conf.d/cobalt.conf
COPY docker/mountd.conf /etc/cobalt/mountd.conf
COPY daemon/debian/boot.exports /usr/lib/cobalt/boot.exports
COPY docker/storage docker/storage-healthy /usr/local/sbin/
COPY --from=programs /programs/ /usr/local/bin/
# The API is for the network of the containers; HAProxy shows it to others.
ENV COBALT_POOL=/pool COBALT_LISTEN=0.0.0.0:7420 COBALT_INSECURE_PLAIN_TCP=true
VOLUME /var/lib/cobalt
EXPOSE 2049 7420
HEALTHCHECK --interval=30s --timeout=30s --start-period=60s CMD ["storage-healthy"]
CMD ["storage"]
