# The studio in a container, ready for a Docker Space (there it is a public page: the demo only).
# docker build -t dualselect-studio . && docker run -e STUDIO_LOGIN=me:secret -p 7860:7860 dualselect-studio
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 studio
USER studio
ENV HOME=/home/studio \
    PATH=/home/studio/.local/bin:$PATH \
    STUDIO_HOME=/home/studio/data \
    HF_HOME=/home/studio/.cache/huggingface \
    HOST=0.0.0.0 \
    PORT=7860 \
    GRADIO_SSR_MODE=False \
    GRADIO_ANALYTICS_ENABLED=False
WORKDIR /home/studio/app
COPY --chown=studio:studio requirements.txt ./
RUN pip install --user --no-cache-dir -r requirements.txt
COPY --chown=studio:studio . .
EXPOSE 7860
CMD ["python", "-m", "app"]
