from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('celery_leader', '0002_tick_effect'),
    ]

    operations = [
        migrations.AddField(
            model_name='election',
            name='deployment',
            field=models.TextField(blank=True, default='', help_text='What the holder belongs to.', verbose_name='deployment'),
        ),
    ]
