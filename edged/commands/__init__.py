"""The commands of ``edged`` beside ``run`` and ``build``, each imported only when it runs."""
