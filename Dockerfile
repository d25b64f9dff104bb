FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# PostgreSQL makes no files for a user without an entry in /etc/passwd; so a number alone will not do.
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/freshet --create-home --shell /usr/sbin/nologin freshet \
    && install --directory --owner freshet --group freshet --mode 0700 /var/lib/freshet/data

WORKDIR /opt/freshet

COPY requirements.lock .
RUN pip install --no-deps --require-hashes -r requirements.lock

COPY alembic alembic
COPY app app
COPY docs docs
COPY README.md LICENSE ./
RUN python -m compileall -q app \
    && printf '#!/bin/sh\nPYTHONPATH=/opt/freshet exec python -P -m app "$@"\n' > /usr/local/bin/freshet \
    && chmod +x /usr/local/bin/freshet

# Without DATABASE_URL, the embedded PostgreSQL keeps its data here.
ENV HOST=0.0.0.0 \
    PORT=8000 \
    FRESHET_DATA_DIR=/var/lib/freshet/data
VOLUME /var/lib/freshet/data
EXPOSE 8000
USER freshet
WORKDIR /var/lib/freshet

HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]

CMD ["freshet", "serve"]
